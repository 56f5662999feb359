//! Replacing mini by another release of itself, and going back by itself if that one is no good.
//!
//! Nothing is changed before the archive is known to be whole and signed and its program runs. Then,
//! in this order: the journal says what is begun; one link is moved; the controller is restarted; the
//! proxy's sockets are handed to a new one; all is looked at. Whatever goes wrong, or where it is cut
//! off, the same steps lead back.

mod archive;
mod checks;
mod journal;
mod layout;
mod signature;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::process::Command;
use tokio::time::Instant;

use self::checks::Before;
use self::journal::{Begun, Journal};
use self::layout::Layout;
use self::signature::Trust;
use crate::output::{self, Fault};
use crate::services::Services;
use crate::settings::Settings;

/// In the data folder.
const COPIES: &str = "upgrades";
const COPIES_KEPT: usize = 3;
/// A program that says nothing of itself within this does not run here.
const VERSION_WITHIN: Duration = Duration::from_secs(10);
/// How long the old release has to be back. It ran before.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// What is asked for.
pub(crate) struct Wanted {
    /// A file or an https URL; `None`: the release before.
    pub(crate) source: Option<String>,
    pub(crate) key: Option<PathBuf>,
    /// In hex.
    pub(crate) sha256: Option<String>,
    /// How long the new release has until it must be well.
    pub(crate) patience: Duration,
}

pub(crate) struct Upgrade<'a> {
    settings: &'a Settings,
    layout: Layout,
    journal: Journal,
    services: Services<'a>,
}

impl<'a> Upgrade<'a> {
    pub(crate) async fn begin(settings: &'a Settings) -> Result<Self, Fault> {
        let layout = Layout::of_this_program()?;
        let services = Services { settings };
        services.check().await?;
        let journal = Journal::open(&settings.data_dir)?;
        Ok(Self { settings, layout, journal, services })
    }

    pub(crate) async fn run(&self, wanted: &Wanted) -> Result<(), Fault> {
        if let Some(begun) = self.journal.begun()? {
            output::line(&format!("an upgrade to {} was cut off: going back first", begun.to));
            // What is down by now may have been so before: only what goes down on the way counts.
            let before = checks::before(self.settings).await;
            self.go_back(&begun, &before).await?;
            if wanted.source.is_none() {
                return Ok(());
            }
        }
        let from = self.layout.current().map_err(io("the current release"))?;
        let to = match &wanted.source {
            Some(source) => self.fetch(source, wanted).await?,
            None => self.layout.previous().map_err(|error| {
                Fault::new(format!("there is no release before this one to go back to: {error}"))
                    .hint("name an archive instead")
            })?,
        };
        if from == to {
            output::line(&format!("{to} is what runs: nothing to do"));
            return Ok(());
        }
        let version = version_of(&self.layout.folder(&to)).await?;
        output::line(&format!("from {from} to {to} ({version})"));
        self.replace(from, to, wanted.patience).await
    }

    /// Makes a release of the archive; nothing uses it yet.
    async fn fetch(&self, source: &str, wanted: &Wanted) -> Result<String, Fault> {
        let trust = Trust::of(wanted.key.as_deref(), wanted.sha256.clone())?;
        let staging = self.layout.new_folder().map_err(io("the releases"))?;
        let staged = archive::stage(source, &staging).await;
        let made = match staged {
            Ok(staged) => self.make_release(&trust, &staged).await,
            Err(fault) => Err(fault),
        };
        let _ = fs::remove_dir_all(&staging);
        made
    }

    async fn make_release(&self, trust: &Trust, staged: &archive::Staged) -> Result<String, Fault> {
        trust.check(&staged.archive, &staged.signature, &staged.digest)?;
        let unpacked = staged.archive.with_file_name("unpacked");
        archive::unpack(&staged.archive, &unpacked)?;
        let version = version_of(&unpacked).await?;
        let number = version.rsplit(' ').next().unwrap_or("unknown");
        let number: String =
            number.chars().filter(|c| c.is_ascii_alphanumeric() || ".-+".contains(*c)).collect();
        let id = format!("{number}-{}", staged.digest.get(..12).unwrap_or_default());
        self.layout
            .keep(&unpacked, &id)
            .map_err(io("the new release cannot be put in its place"))?;
        Ok(id)
    }

    async fn replace(&self, from: String, to: String, patience: Duration) -> Result<(), Fault> {
        let started = Instant::now();
        let schema = self.schema().await.ok_or_else(|| {
            Fault::new("the database cannot be read").hint("`minid status` says why")
        })?;
        let before = checks::before(self.settings).await;
        self.copy_database(&to).await?;
        let previous = self.layout.previous().ok();
        let (old, new) = (from.clone(), to.clone());
        let begun = Begun { from: old, to: new, previous, at: Timestamp::now(), schema };
        self.journal.begin(&begun).map_err(io("what is begun cannot be noted"))?;
        match self.forward(&from, &to, &before, Instant::now() + patience).await {
            Ok(()) => {
                self.journal.end().map_err(io("the journal"))?;
                if let Err(error) = self.layout.prune() {
                    output::line(&format!("older releases were not removed: {error}"));
                }
                let seconds = started.elapsed().as_secs_f64();
                output::line(&format!("upgraded to {to} in {seconds:.1} s"));
                Ok(())
            }
            Err(why) => {
                output::line(&format!("{to} is no good: {why}"));
                self.go_back(&begun, &before).await?;
                Err(Fault::new(format!("{to} was not kept; {from} serves again"))
                    .hint("what went wrong is above; apps were served all along"))
            }
        }
    }

    /// A copy of the database as it was before: for whoever wants to go back later. What else the
    /// server has an upgrade does not touch.
    async fn copy_database(&self, to: &str) -> Result<(), Fault> {
        let folder = self.settings.data_dir.join(COPIES);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(io("the folder for the copy of the database"))?;
        let copy = folder.join(format!("before-{to}.db"));
        let copied =
            mini_controller::copy_of_database(self.settings.data_dir.clone(), copy.clone()).await;
        copied.map_err(|error| {
            Fault::new(format!("the database cannot be copied, so nothing was changed: {error}"))
                .hint("is the disk full?")
        })?;
        output::line(&format!("a copy of the database is in {}", copy.display()));
        forget_all_but(&folder, COPIES_KEPT).map_err(io("older copies of the database"))
    }

    /// To the new release, until all is well; or why not.
    async fn forward(
        &self,
        from: &str,
        to: &str,
        before: &Before,
        until: Instant,
    ) -> Result<(), String> {
        let folder = self.layout.folder(to);
        // First, so that there is a program that can go back if the new one cannot be started.
        let moved = self.layout.remember(Some(from)).and_then(|()| self.layout.switch(to));
        moved.map_err(|error| format!("the links cannot be moved: {error}"))?;
        self.services.restart_controller().await.map_err(|fault| fault.words())?;
        self.services.controller_of(&folder, until).await?;
        output::line("the new controller answers");
        self.services.reload_proxy().await.map_err(|fault| fault.words())?;
        self.services.proxy_of(&folder, until).await?;
        output::line("the new proxy serves; the old one finishes its requests");
        checks::well(self.settings, before, until).await
    }

    /// To the release before, whatever of the new one there is.
    async fn go_back(&self, begun: &Begun, before: &Before) -> Result<(), Fault> {
        let by_hand = "`minid status` and `journalctl -u mini-controller -u mini-proxy` say more; \
                       `minid upgrade` tries to go back again";
        let (old, new) = (self.layout.folder(&begun.from), self.layout.folder(&begun.to));
        let until = Instant::now() + BACK_WITHIN;
        self.layout.switch(&begun.from).map_err(io("the link cannot be moved back"))?;
        // Where it cannot be read nothing is known, and the old controller will say why.
        if self.schema().await.is_some_and(|schema| schema != begun.schema) {
            self.services.stop_controller().await?;
            self.bring_back_database(begun).map_err(io("the database cannot be put back"))?;
        }
        self.services.restart_controller().await.map_err(|fault| fault.hint(by_hand))?;
        let back = self.services.controller_of(&old, until).await;
        back.map_err(|why| Fault::new(why).hint(by_hand))?;
        if self.services.has_proxy_of(&new).await {
            self.services.reload_proxy().await.map_err(|fault| fault.hint(by_hand))?;
            let back = self.services.proxy_of(&old, until).await;
            back.map_err(|why| Fault::new(why).hint(by_hand))?;
        }
        let well = checks::well(self.settings, before, until).await;
        well.map_err(|why| Fault::new(format!("back at {}, but {why}", begun.from)).hint(by_hand))?;
        let previous = begun.previous.as_deref();
        self.layout.remember(previous).map_err(io("the link to the release before"))?;
        self.journal.end().map_err(io("the journal"))?;
        output::line(&format!("back at {}", begun.from));
        Ok(())
    }

    async fn schema(&self) -> Option<i64> {
        let folder = self.settings.data_dir.clone();
        let look = tokio::task::spawn_blocking(move || mini_controller::schema(&folder)).await;
        look.ok().and_then(Result::ok)
    }

    /// The copy that the new controller made before it changed the schema takes the database's
    /// place; what was changed since stays beside it.
    fn bring_back_database(&self, begun: &Begun) -> std::io::Result<()> {
        let folder = &self.settings.data_dir;
        let copy = mini_controller::copy_before(folder, begun.schema, begun.at.into())?;
        let database = folder.join("mini.db");
        let aside = folder.join(format!("mini.db.of-{}", begun.to));
        for ending in ["", "-wal", "-shm"] {
            let with = |path: &Path| PathBuf::from(format!("{}{ending}", path.display()));
            if with(&database).exists() {
                fs::rename(with(&database), with(&aside))?;
            }
        }
        let new = folder.join("mini.db.new");
        fs::copy(&copy, &new)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &database)?;
        fs::File::open(folder)?.sync_all()?;
        output::line(&format!(
            "the database is as it was when the new release first changed it; what was changed \
             since is in {}",
            aside.display()
        ));
        Ok(())
    }
}

/// Removes the oldest copies.
fn forget_all_but(folder: &Path, kept: usize) -> std::io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("before-") {
            all.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    all.sort();
    let too_many = all.len().saturating_sub(kept);
    all.into_iter().take(too_many).try_for_each(|(_, path)| fs::remove_file(path))
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::new(format!("{what}: {error}")).hint("do it as root; is the disk full?")
}

/// What the programs of a release say they are; they run on this machine if they say it.
async fn version_of(folder: &Path) -> Result<String, Fault> {
    let program = folder.join("minid");
    let does_not = |why: String| {
        Fault::new(format!("the new minid does not run on this machine: {why}"))
            .hint("nothing was changed; is it for another kind of processor?")
    };
    let mut command = Command::new(&program);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let said = tokio::time::timeout(VERSION_WITHIN, command.output()).await;
    let said = said.map_err(|_| does_not("it does not end".to_owned()))?;
    let said = said.map_err(|error| does_not(error.to_string()))?;
    if !said.status.success() {
        return Err(does_not(said.status.to_string()));
    }
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
