//! The programs that load the rules: `nft`, else `iptables`. Argument vectors, and the rules on
//! standard input.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::rules::FirewallRules;

/// How long a program may take. It waits for a lock that others hold for moments.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where administrators' programs lie, also if `PATH` leaves it out.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// What is there of the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallLook {
    Missing,
    /// As the tool lists it.
    There(String),
}

pub(super) enum Tool {
    Nft(PathBuf),
    Iptables { list: PathBuf, restore: PathBuf },
}

impl Tool {
    pub(super) fn find() -> Result<Self, String> {
        if let Some(nft) = program("nft") {
            return Ok(Self::Nft(nft));
        }
        match (program("iptables"), program("iptables-restore")) {
            (Some(list), Some(restore)) => Ok(Self::Iptables { list, restore }),
            _ => Err("there is neither nft nor iptables on this machine: install nftables".into()),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Nft(_) => "nftables",
            Self::Iptables { .. } => "iptables",
        }
    }

    /// Puts the rules in place of those that are there, with no moment between.
    pub(super) async fn load(&self, rules: &FirewallRules, dns: &[IpAddr]) -> Result<(), String> {
        match self {
            Self::Nft(nft) => said(run(nft, &["-f", "-"], &rules.nft(dns)).await?).map(drop),
            Self::Iptables { list, restore } => {
                said(run(restore, &["--noflush", "-w"], &rules.iptables(dns)).await?)?;
                for jump in jumps(list, rules).await? {
                    if !run(list, &jump.words("-C"), "").await?.well {
                        said(run(list, &jump.words("-I"), "").await?)?;
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) async fn look(&self, rules: &FirewallRules) -> Result<FirewallLook, String> {
        match self {
            Self::Nft(nft) => {
                let table = rules.table();
                let done = run(nft, &["-s", "list", "table", "inet", &table], "").await?;
                if done.well {
                    return Ok(FirewallLook::There(done.out));
                }
                if done.err.contains("No such file") {
                    return Ok(FirewallLook::Missing);
                }
                Err(done.err)
            }
            Self::Iptables { list, .. } => {
                let mut text = String::new();
                for chain in rules.chains() {
                    let done = run(list, &["-w", "-S", &chain], "").await?;
                    if !done.well {
                        return Ok(FirewallLook::Missing);
                    }
                    text.push_str(&done.out);
                }
                for jump in jumps(list, rules).await? {
                    if !run(list, &jump.words("-C"), "").await?.well {
                        return Ok(FirewallLook::Missing);
                    }
                    text.push_str(&format!("{}\n", jump.words("-A")[1..].join(" ")));
                }
                Ok(FirewallLook::There(text))
            }
        }
    }

    /// Removes what is there; nothing there is done.
    pub(super) async fn remove(&self, rules: &FirewallRules) -> Result<(), String> {
        match self {
            Self::Nft(nft) => said(run(nft, &["-f", "-"], &rules.nft_removal()).await?).map(drop),
            Self::Iptables { list, .. } => {
                for jump in jumps(list, rules).await? {
                    while run(list, &jump.words("-C"), "").await?.well {
                        said(run(list, &jump.words("-D"), "").await?)?;
                    }
                }
                for chain in rules.chains() {
                    if run(list, &["-w", "-F", &chain], "").await?.well {
                        said(run(list, &["-w", "-X", &chain], "").await?)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// A rule that leads from a chain of others to one of ours.
struct Jump {
    from: &'static str,
    interface: String,
    to: String,
}

impl Jump {
    fn words<'a>(&'a self, verb: &'a str) -> [&'a str; 7] {
        ["-w", verb, self.from, "-i", &self.interface, "-j", &self.to]
    }
}

/// The engine puts its own rules before others' in FORWARD, but for DOCKER-USER, which is ours.
async fn jumps(list: &Path, rules: &FirewallRules) -> Result<Vec<Jump>, String> {
    let with_engine = run(list, &["-w", "-S", "DOCKER-USER"], "").await?.well;
    let forward = if with_engine { "DOCKER-USER" } else { "FORWARD" };
    let [to_host, to_others] = rules.chains();
    let both = |interface: String| {
        [
            Jump { from: "INPUT", interface: interface.clone(), to: to_host.clone() },
            Jump { from: forward, interface, to: to_others.clone() },
        ]
    };
    Ok(rules.iptables_interfaces().into_iter().flat_map(both).collect())
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(FOLDERS.split(':')).filter(|f| f.starts_with('/'));
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

struct Done {
    well: bool,
    out: String,
    /// The first line of what it complained of.
    err: String,
}

fn said(done: Done) -> Result<String, String> {
    if done.well { Ok(done.out) } else { Err(done.err) }
}

async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Done, String> {
    let failed = |why: String| format!("{}: {why}", program.display());
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdin = child.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin {
            // One that ends early has said why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| failed(format!("no end after {} s", PATIENCE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    let complaint = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed");
    Ok(Done {
        well: done.status.success(),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: failed(complaint.trim().to_owned()),
    })
}
