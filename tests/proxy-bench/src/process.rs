//! Programs that the bench starts: each on one CPU, gone when the bench is, and what the kernel
//! says of them.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);

/// A running program with all the processes that it started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `words` on one CPU. What it prints goes to `NAME.log` in `folder`.
    ///
    /// `setpriv` has the kernel end it should this process die before it could.
    pub(crate) fn start(
        name: &str,
        cpu: usize,
        folder: &Path,
        words: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let log = File::create(folder.join(format!("{name}.log")))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", &cpu.to_string()])
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name} with setpriv and taskset (util-linux)"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// It and its descendants.
    pub(crate) fn all(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> =
            pids().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
        let mut all = vec![self.pid()];
        let mut n = 0;
        while n < all.len() {
            let of = all[n];
            all.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
            n += 1;
        }
        all
    }

    /// CPU time of all its threads since they began, user's and kernel's.
    ///
    /// From `schedstat`, in nanoseconds: the same time whose sum `stat` gives in hundredths of a
    /// second as utime and stime.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut all = 0;
        for pid in self.all() {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.with_context(|| format!("{} has ended", self.name))? {
                let said = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
                all += said.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(Duration::from_nanos(all))
    }

    /// Its share of memory, shared pages divided among those who share them, in bytes.
    pub(crate) fn pss(&self) -> Result<u64> {
        let mut all = 0;
        for pid in self.all() {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kilobytes =
                line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            all += kilobytes.with_context(|| format!("{path} has no Pss"))? * 1024;
        }
        Ok(all)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return };
        let _ = kill_process(pid, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if self.ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// `2 x AMD EPYC, 24 GB, Linux 6.1.0`
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim())
        .collect();
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|m| m.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    format!(
        "{} x {}, {:.0} GB, Linux {}",
        models.len(),
        models.first().unwrap_or(&"unknown processor"),
        memory.unwrap_or(0) as f64 * 1024.0 / 1e9,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// Runnable processes on average over the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}
