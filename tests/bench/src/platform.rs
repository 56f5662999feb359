//! A platform of the benchmark's own: data folder, port, configuration and token in a temporary
//! folder; removed with all that it made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::http::Socket;
use crate::{machine, output};

const START: Duration = Duration::from_secs(30);
/// The longest that `minid run` takes to stop in order: two children, and the drain time.
const STOP: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);

pub(crate) struct Platform {
    /// Where `mini` and `minid` lie.
    bin: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin: Socket,
    /// The label value of all that it makes on the engine, once known.
    pub(crate) server: Option<String>,
    minid: Option<Child>,
}

impl Platform {
    pub(crate) fn new(bin: &Path, folder: &Path) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        Ok(Self {
            bin: bin.to_owned(),
            folder: folder.to_owned(),
            port: listener.local_addr()?.port(),
            admin: Socket::new(&folder.join("data/admin.sock")),
            server: None,
            minid: None,
        })
    }

    /// Starts `minid run` and logs in, as a user does.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let (said, log) = (self.folder.join("said"), self.folder.join("minid.log"));
        let minid = Command::new(self.bin.join("minid"))
            .args(["run", "--http-listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(self.folder.join("data"))
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(File::create(&log)?)
            // A terminal's Ctrl-C is for us, who destroy the apps first.
            .process_group(0)
            .spawn()
            .context("minid")?;
        self.minid = Some(minid);
        let ready = async {
            loop {
                let text = fs::read_to_string(&said)?;
                if text.lines().any(|line| line.starts_with("ready ")) {
                    return Ok(text);
                }
                if let Some(minid) = &mut self.minid
                    && let Some(status) = minid.try_wait()?
                {
                    bail!("minid ended at once: {status}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = match tokio::time::timeout(START, ready).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => return Err(self.with_log(error)),
            Err(_) => return Err(self.with_log(anyhow::anyhow!("minid was not ready in time"))),
        };
        let server = self.admin.json(Method::GET, "/v1/server", &Value::Null).await?;
        self.server = server["id"].as_str().map(str::to_owned);
        let token = said
            .lines()
            .find_map(|line| line.strip_prefix("first token").and_then(|l| l.split(": ").nth(1)))
            .context("minid printed no first token")?;
        let url = format!("http://localhost:{}", self.port);
        self.mini(&["config", "set-host", &url, "--as", "bench"]).await?;
        self.mini(&["login", "--token", token.trim()]).await
    }

    fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        let log = fs::read_to_string(self.folder.join("minid.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        error.context(format!("the end of minid's log:\n{}", tail.join("\n")))
    }

    /// A `mini` command that is not started yet; what it prints goes to a file.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.program("mini", words)?;
        command
            .env("MINI_CONFIG", self.folder.join("config.toml"))
            .env_remove("MINI_HOST")
            .env_remove("MINI_TOKEN")
            .env_remove("MINI_SERVER")
            .env_remove("MINI_APP");
        Ok(command)
    }

    /// The same of `minid`, as the operator starts it.
    pub(crate) fn minid(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.program("minid", words)?;
        command.arg("--data-dir").arg(self.folder.join("data"));
        Ok(command)
    }

    fn program(&self, name: &str, words: &[&str]) -> Result<Command> {
        let log = File::create(self.folder.join("command.log"))?;
        let mut command = Command::new(self.bin.join(name));
        command
            .args(words)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Waits for a command; a failure of it is an error with what it printed.
    pub(crate) async fn ended(&self, command: &mut Child, limit: Duration) -> Result<()> {
        let ended = tokio::time::timeout(limit, command.wait()).await;
        let said = fs::read_to_string(self.folder.join("command.log")).unwrap_or_default();
        match ended {
            Ok(status) if status.as_ref().is_ok_and(|s| s.success()) => Ok(()),
            Ok(status) => bail!("{}\n{}", status?, said.trim()),
            Err(_) => bail!("not ended within {} s\n{}", limit.as_secs(), said.trim()),
        }
    }

    pub(crate) async fn mini(&self, words: &[&str]) -> Result<()> {
        let mut mini = self.command(words)?.spawn().context("mini")?;
        self.ended(&mut mini, COMMAND).await
    }

    pub(crate) async fn create_app(&self, name: &str) -> Result<()> {
        let app = json!({ "name": name });
        self.admin.json(Method::POST, "/v1/apps", &app).await.map(drop)
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.join("data/control.sock")
    }

    /// A child of `minid run`, by its role.
    pub(crate) fn pid_of(&self, role: &str) -> Result<u32> {
        let run = self.minid.as_ref().and_then(Child::id).context("minid is gone")?;
        let found = machine::children(run).into_iter().find(|(_, name)| name == role);
        Ok(found.with_context(|| format!("no {role} runs"))?.0)
    }

    /// Every process of ours: its id and what it is.
    pub(crate) fn processes(&self) -> Result<Vec<(u32, String)>> {
        let run = self.minid.as_ref().and_then(Child::id).context("minid is gone")?;
        let mut all = machine::children(run);
        all.sort_by(|a, b| a.1.cmp(&b.1));
        if all.len() != 2 {
            bail!("minid run has {} children, not a controller and a proxy", all.len());
        }
        all.push((run, "run".to_owned()));
        Ok(all)
    }

    /// Destroys an app and waits until nothing is left of it.
    pub(crate) async fn destroy(&self, app: &str) -> Result<()> {
        let path = format!("/v1/apps/{app}");
        let gone = async {
            while self.admin.ask(Method::DELETE, &path, &Value::Null).await?.0 != 404 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        tokio::time::timeout(STOP, gone).await.with_context(|| format!("{app} does not go"))?
    }

    /// Destroys the apps named and stops. Goes on where something fails, and says what.
    pub(crate) async fn stop(&mut self, apps: &[&str]) {
        let Some(minid) = &self.minid else { return };
        let pid = minid.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if self.server.is_some() {
            for app in apps {
                if let Err(error) = self.destroy(app).await {
                    output::say(&format!("{error:#}"));
                }
            }
        }
        let Some(mut minid) = self.minid.take() else { return };
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            output::say(&format!("minid could not be told to stop: {error}"));
        }
        if tokio::time::timeout(STOP, minid.wait()).await.is_err() {
            output::say("minid does not stop in time and is killed");
            let _ = minid.kill().await;
        }
        if self.server.is_some() {
            self.remove_firewall().await;
        }
    }

    /// It outlives its server on purpose, and this one does not come back.
    async fn remove_firewall(&self) {
        let removed = async {
            let mut minid = self.minid(&["firewall", "remove"])?.spawn()?;
            self.ended(&mut minid, STOP).await
        };
        if let Err(error) = removed.await {
            output::say(&format!("the firewall stays: {error:#}"));
        }
    }
}
