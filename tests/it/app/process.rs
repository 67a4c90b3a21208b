//! The real program as a process of its own, to be killed, frozen and stopped.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than any orderly stop takes.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// Where processes read their settings from, in the test's directory.
pub const SETTINGS_FILE: &str = "freezeframe.toml";

/// The program, with none of this process' own settings in its environment.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freezeframe"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FREEZEFRAME_") {
            command.env_remove(name);
        }
    }
    command
}

/// A command of the program, to its end.
pub fn run(args: &[String], dir: &Path, variables: &[(String, String)]) -> Output {
    let variables = variables.iter().map(|(name, value)| (name, value));
    program().args(args).arg("--config").arg(dir.join(SETTINGS_FILE)).envs(variables).output().unwrap()
}

pub struct ChildService {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    ended: Option<ExitStatus>,
    /// Where the API listens, once it has said so.
    pub base: String,
}

impl ChildService {
    /// `freezeframe serve --roles ROLES` with these settings.
    pub fn start(roles: &str, settings: &str, dir: &Path, variables: &[(&str, &str)]) -> ChildService {
        let file = dir.join(SETTINGS_FILE);
        std::fs::write(&file, settings).unwrap();
        let mut child = program()
            .args(["serve", "--roles", roles, "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), log.clone());
        collect(child.stderr.take().unwrap(), log.clone());
        ChildService { child, log, ended: None, base: String::new() }
    }

    /// Waits until the API says where it listens.
    pub async fn listens(&mut self) {
        let said = self.logged("API      ").await;
        let address = said.split_once("://").and_then(|(_, rest)| rest.strip_suffix("/api/enterprise"));
        self.base = format!("http://{}", address.unwrap_or_else(|| panic!("no address in {said:?}")));
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until it has written a line with this; answers the line. What it does may be seen before it says so.
    pub async fn logged(&self, part: &str) -> String {
        let line = || self.log.lock().unwrap().iter().find(|line| line.contains(part)).cloned();
        super::until(&format!("process {} writes {part:?}", self.id()), async || line().is_some()).await;
        line().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "the process has ended: its number may be another's");
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// SIGTERM, and waits for the orderly end; answers how long it took.
    pub fn terminate(&mut self) -> Duration {
        let asked = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "the process ended with {status}:\n{}", self.log());
        asked.elapsed()
    }

    /// An orderly end, unless it has ended already.
    pub fn stop(&mut self) {
        if self.ended.is_none() {
            self.terminate();
        }
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = Some(status);
                return status;
            }
            assert!(Instant::now() < deadline, "the process did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ChildService {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("process {} wrote:\n{}", self.child.id(), self.log());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
