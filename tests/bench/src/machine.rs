//! What was measured on, and what the kernel says of processes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// `2 x AMD EPYC, 24 GB, Linux 6.1.0`
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, m)| m.trim())
        .collect();
    let memory = kilobytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0);
    format!(
        "{} x {}, {:.0} GB, Linux {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        models.first().unwrap_or(&"unknown processor"),
        memory as f64 * 1024.0 / 1e9,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// Runnable processes on average over the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

fn of_process(pid: u32, file: &str, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(kilobytes(&text, key).with_context(|| format!("{path} has no {key}"))? * 1024)
}

/// Its share of memory, shared pages divided among those who share them, in bytes.
pub(crate) fn pss(pid: u32) -> Result<u64> {
    of_process(pid, "smaps_rollup", "Pss:")
}

/// The most memory it ever held, or held since [`reset_peak`], in bytes.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    of_process(pid, "status", "VmHWM:")
}

/// Begins a new peak (proc(5), `clear_refs`).
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| path)
}

/// The processes that `parent` started, each with its first argument.
pub(crate) fn children(parent: u32) -> Vec<(u32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).map(|pid| (pid, role(pid))).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn role(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let second = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(second).into_owned()
}

/// Free bytes where `path` lies.
pub(crate) fn free_disk(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}
