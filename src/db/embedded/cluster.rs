//! One data directory and its server: created, started, watched and stopped.
//!
//! The caller holds the gate lock, so at most one process is in here per cluster. A server counts as running when it
//! accepts on its socket and its own status line says ready; `postmaster.pid` alone proves nothing, because it survives a
//! crash. Lock files of a dead server are removed only when no process works in the data directory any more.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    binaries::Binaries,
    place::{Place, RunAs},
};

/// How long a server may take to recover, start or stop.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Ports are looked for here: below the range that kernels give to outgoing connections, above the well-known ones.
const PORTS: std::ops::Range<u16> = 15_432..16_432;
const START_ATTEMPTS: u32 = 3;

/// The data directory's name until it is complete.
const UNFINISHED: &str = "data.new-";

/// A server log beyond this is set aside at the next start.
const LOG_LIMIT_BYTES: u64 = 16 << 20;

/// The status that a postmaster writes on the eighth line of its pid file once it accepts connections.
const READY: &str = "ready";

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) place: Place,
    binaries: Binaries,
    port: u16,
}

#[derive(Debug, PartialEq)]
enum Server {
    Ready,
    /// Starting, stopping, or the remains of a killed one.
    Busy,
    Stopped,
}

impl Cluster {
    /// Creates the data directory if there is none, and starts the server unless it runs.
    pub(super) fn ensure_running(place: Place, bin_dir: Option<&std::path::Path>) -> Result<Cluster> {
        let existing_major = fs::read_to_string(place.home.join("data/PG_VERSION")).ok();
        let wanted_major = existing_major.and_then(|text| text.trim().parse().ok());
        let binaries = Binaries::find(bin_dir, wanted_major)?;
        let port = read_port(&place)?;
        let mut cluster = Cluster { place, binaries, port: port.unwrap_or(0) };
        if wanted_major.is_none() {
            cluster.initialize()?;
        }
        if cluster.wait_until_settled()? == Server::Ready {
            return Ok(cluster);
        }
        cluster.start()?;
        Ok(cluster)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn stop(&self) -> Result<()> {
        if self.state() == Server::Stopped {
            return Ok(());
        }
        self.run(self.pg_ctl().args(["-m", "fast", "-w", "-t", &PATIENCE.as_secs().to_string(), "stop"]))
    }

    /// The password of the superuser for TCP connections; the socket needs none.
    pub(super) fn password(&self) -> Result<String> {
        let mut password = String::new();
        self.place.open("password")?.read_to_string(&mut password)?;
        Ok(password.trim().to_owned())
    }

    fn initialize(&self) -> Result<()> {
        let mut file = self.place.open("password")?;
        file.set_len(0)?;
        writeln!(file, "{:032x}", rand::random::<u128>())?;
        // An initdb whose parent was killed may still be writing: every run has a directory of its own.
        self.remove_unfinished();
        let name = format!("{UNFINISHED}{:08x}", rand::random::<u32>());
        let unfinished = self.place.home.join(&name);
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&unfinished).arg("--pwfile").arg(self.place.home.join("password"));
        initdb.args(["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]);
        self.run(initdb.args(["-E", "UTF8", "--locale=C", "--no-instructions"]))?;
        let mut settings = self.place.open(&format!("{name}/postgresql.conf"))?;
        writeln!(settings, "\ninclude '../server.conf' # rewritten at every start; lines below this one win")?;
        settings.sync_all()?;
        fs::rename(&unfinished, self.data())?;
        Ok(())
    }

    fn remove_unfinished(&self) {
        let entries = fs::read_dir(&self.place.home).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::debug!(path = %entry.path().display(), %error, "an unfinished data directory stays for now");
            }
        }
    }

    fn start(&mut self) -> Result<()> {
        self.set_old_log_aside()?;
        for attempt in 1..=START_ATTEMPTS {
            self.choose_port()?;
            self.write_settings()?;
            let log = self.place.home.join("log");
            let started =
                self.run(self.pg_ctl().arg("-l").arg(log).args(["-w", "-t", &PATIENCE.as_secs().to_string(), "start"]));
            match started {
                // Somebody took the port between our look and the server's: the next round chooses another. (Or the port
                // is ours: a long recovery outlasted pg_ctl.)
                Err(_) if attempt < START_ATTEMPTS && !is_free(self.port) => {
                    if self.wait_until_settled()? == Server::Ready {
                        return Ok(());
                    }
                }
                outcome => return outcome,
            };
        }
        bail!("no TCP port stayed free long enough to start the database under {}", self.place.home.display())
    }

    /// Keeps the port of the last run, so that addresses given to people stay true, unless somebody else has it now.
    fn choose_port(&mut self) -> Result<()> {
        if self.port != 0 && is_free(self.port) {
            return Ok(());
        }
        let before = self.port;
        let first = rand::random::<u16>() % (PORTS.end - PORTS.start);
        self.port = PORTS
            .map(|port| PORTS.start + (port - PORTS.start + first) % (PORTS.end - PORTS.start))
            .find(|&port| is_free(port))
            .with_context(|| format!("every TCP port from {} to {} is taken", PORTS.start, PORTS.end - 1))?;
        if before != 0 {
            tracing::warn!(before, now = self.port, "the database's TCP port was taken; it has another one now");
        }
        let mut file = self.place.open("port")?;
        file.set_len(0)?;
        writeln!(file, "{}", self.port)?;
        Ok(())
    }

    fn write_settings(&self) -> Result<()> {
        let socket_dir = self.place.socket_dir.display();
        let mut file = self.place.open("server.conf")?;
        file.set_len(0)?;
        // Terse errors: the detail line would write rows, and with them customers' prompts, into the log.
        write!(
            file,
            "# Rewritten at every start: change data/postgresql.conf below its include line instead.\n\
             port = {}\n\
             listen_addresses = '127.0.0.1'\n\
             unix_socket_directories = '{socket_dir}'\n\
             unix_socket_permissions = 0700\n\
             password_encryption = 'scram-sha-256'\n\
             max_connections = 200\n\
             shared_buffers = 256MB\n\
             max_wal_size = 2GB\n\
             fsync = on\n\
             full_page_writes = on\n\
             synchronous_commit = on\n\
             jit = off\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n\
             log_error_verbosity = terse\n\
             log_line_prefix = '%m [%p] %q%a '\n",
            self.port
        )?;
        Ok(())
    }

    /// Waits out a server that starts, stops or lies dying, and clears the lock files of a dead one.
    fn wait_until_settled(&self) -> Result<Server> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.state() {
                Server::Busy => {
                    let data = self.data();
                    ensure!(
                        Instant::now() < deadline,
                        "processes of another PostgreSQL server still work in {} but it accepts no connection: \
                         look at {} and end them",
                        data.display(),
                        self.place.home.join("log").display()
                    );
                    sleep(POLL_INTERVAL);
                }
                Server::Stopped => {
                    self.clear_stale_locks();
                    return Ok(Server::Stopped);
                }
                Server::Ready => return Ok(Server::Ready),
            }
        }
    }

    fn state(&self) -> Server {
        let accepts = UnixStream::connect(self.socket()).is_ok();
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let ready = pid_file.lines().nth(7).is_some_and(|status| status.trim() == READY);
        match (accepts && ready, accepts || self.has_processes()) {
            (true, _) => Server::Ready,
            (false, true) => Server::Busy,
            (false, false) => Server::Stopped,
        }
    }

    /// Every process of a server has the data directory as its working directory; a zombie has none.
    fn has_processes(&self) -> bool {
        let data = self.data();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.map(|entry| entry.path().join("cwd")).any(|cwd| fs::read_link(cwd).is_ok_and(|at| at == data))
    }

    /// After a crash the server itself would refuse to start when the old pid belongs to a zombie or to somebody else.
    /// Without a process table to look into, that judgement stays with the server.
    fn clear_stale_locks(&self) {
        if !fs::exists("/proc/self/cwd").unwrap_or(false) {
            return;
        }
        let socket = self.socket();
        for stale in [self.data().join("postmaster.pid"), socket.with_added_extension("lock"), socket] {
            if fs::remove_file(&stale).is_ok() {
                tracing::info!(file = %stale.display(), "removed a lock file of a dead database server");
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.place.home.join("data")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.place.socket_dir.join(format!(".s.PGSQL.{}", self.port))
    }

    fn pg_ctl(&self) -> Command {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(self.data()).arg("-s");
        command
    }

    /// An empty environment: no `PG*` variable of ours reaches the server, nor any secret.
    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.binaries.tool(tool));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &self.place.home).env("LC_ALL", "C");
        command.current_dir(&self.place.home).stdin(Stdio::null());
        if let Some(user) = &self.place.run_as {
            command.uid_gid(user);
        }
        command
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().with_context(|| match &self.place.run_as {
            Some(user) => format!("cannot run {program} as user {} in {}", user.name, self.place.home.display()),
            None => format!("cannot run {program}"),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}{}", output.status, complaint.trim(), self.end_of_log())
    }

    fn end_of_log(&self) -> String {
        let text = self.place.open("log").and_then(|mut log| {
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
            let mut tail = Vec::new();
            log.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        });
        let tail = text.unwrap_or_default();
        tail.lines().rev().take(8).collect::<Vec<_>>().iter().rev().map(|line| format!("\n  {line}")).collect()
    }

    fn set_old_log_aside(&self) -> Result<()> {
        if self.place.open("log")?.metadata()?.len() > LOG_LIMIT_BYTES {
            fs::rename(self.place.home.join("log"), self.place.home.join("log.old"))?;
        }
        Ok(())
    }
}

fn read_port(place: &Place) -> Result<Option<u16>> {
    let mut text = String::new();
    place.open("port")?.read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
