//! This program as a process of its own, so that what it takes is told from what the bench takes.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How long it may take to say what it was asked for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running process; it is killed when this is dropped.
pub(super) struct Program {
    process: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Program {
    /// Starts it with these arguments and with these variables alone: settings of this process are not that one's.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(args: &[&str], variables: &[(&str, &str)]) -> Result<Program> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(args)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("this program could not be started as `{}`", args.join(" ")))?;
        let mut printed = BufReader::new(process.stdout.take().context("no output to read")?).lines();
        let (said, lines) = mpsc::unbounded_channel();
        // read to the end whoever listens: a full pipe would stop it
        tokio::spawn(async move {
            while let Ok(Some(line)) = printed.next_line().await {
                let _ = said.send(line);
            }
        });
        Ok(Program { process, lines })
    }

    /// What it prints behind `mark` on a line.
    ///
    /// # Errors
    /// It ended, or did not print such a line in time.
    pub(super) async fn announces(&mut self, mark: &str) -> Result<String> {
        let line = async {
            while let Some(line) = self.lines.recv().await {
                if let Some((_, rest)) = line.split_once(mark) {
                    return Ok(rest.to_owned());
                }
            }
            anyhow::bail!("the process ended before it was ready")
        };
        tokio::time::timeout(PATIENCE, line).await.context("the process did not start")?
    }

    /// Open files; zero where the system does not tell.
    pub(super) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// Memory in use, in kilobytes; zero where the system does not tell.
    pub(super) fn rss_kilobytes(&self) -> u64 {
        kilobytes(self.id(), "VmRSS:")
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }
}

/// A line of `/proc/PID/status`: `VmRSS:` memory in use, `VmHWM:` the most that ever was.
pub(super) fn kilobytes(id: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
