//! Replacing mini by another release of itself, and going back by itself if that one is no good.
//!
//! Nothing is changed before the archive is known to be whole and signed and its program runs and opens
//! a copy of the database. Then, in this order: the journal says what is begun; one link is moved; the
//! units become the new release's; the controller is restarted; the proxy's sockets are handed to a new
//! one; all is looked at. Whatever goes wrong, or where it is cut off, the same steps lead back; at the
//! next boot they do by themselves (`mini-recover.service`), before anything is started.

mod archive;
mod back;
mod checks;
mod journal;
mod layout;
mod signature;
mod trial;
mod units;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use self::checks::Before;
pub(crate) use self::journal::cut_off;
use self::journal::{Begun, Journal};
use self::layout::Layout;
use self::signature::Trust;
use self::trial::{Scratch, Units};
use self::units::only_in;
use crate::output::{self, Fault};
use crate::services::Services;
use crate::settings::Settings;

/// In the data folder.
const COPIES: &str = "upgrades";
const COPIES_KEPT: usize = 3;

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
        if let Some(begun) = self.cut_off()? {
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
        let version = trial::version(&self.layout.folder(&to)).await?;
        output::line(&format!("from {from} to {to} ({version})"));
        self.try_database(&to).await.map_err(|fault| match wanted.source {
            Some(_) => fault,
            None => self.or_else_by_hand(fault, &from),
        })?;
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
        let version = trial::version(&unpacked).await?;
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
        let units = self.units_of(&to).await.map_err(|why| {
            Fault::new(format!("{to} does not write its units, so nothing was changed: {why}"))
        })?;
        // A release that is to be left may be broken.
        let old = self.units_of(&from).await.ok().flatten();
        let added_units = only_in(units.as_ref(), old.as_ref());
        let begun = Begun {
            from: from.clone(),
            to: to.clone(),
            previous: self.layout.previous().ok(),
            at: Timestamp::now(),
            schema,
            added_units,
        };
        self.journal.begin(&begun).map_err(io("what is begun cannot be noted"))?;
        let new = units.map(|new| (only_in(old.as_ref(), Some(&new)), new));
        match self.forward(&begun, new, &before, Instant::now() + patience).await {
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
        copied.map_err(not_copied)?;
        output::line(&format!("a copy of the database is in {}", copy.display()));
        forget_all_but(&folder, COPIES_KEPT).map_err(io("older copies of the database"))
    }

    /// A copy of the database is opened by a release: what it cannot read it says before anything is
    /// changed, and a change of schema that fails has failed on the copy.
    async fn try_database(&self, to: &str) -> Result<(), Fault> {
        let scratch = self.scratch()?;
        let (data, copy) = (self.settings.data_dir.clone(), scratch.path().join("mini.db"));
        mini_controller::copy_of_database(data, copy).await.map_err(not_copied)?;
        trial::opens(&self.layout.folder(to), scratch.path()).await.map_err(|why| {
            Fault::new(format!(
                "{to} does not open a copy of the database, so nothing was changed: {why}"
            ))
        })
    }

    /// How to go back all the same, if there is a copy of what the database was before.
    fn or_else_by_hand(&self, fault: Fault, from: &str) -> Fault {
        let copy = self.settings.data_dir.join(COPIES).join(format!("before-{from}.db"));
        if !copy.exists() {
            return fault;
        }
        let database = self.settings.data_dir.join("mini.db");
        let (copy, database) = (copy.display(), database.display());
        fault.hint(format!(
            "to go back to before {from} came, without what was changed since: `systemctl stop \
             mini-controller`, move {database}* away, put {copy} in the place of {database}, and do \
             this again"
        ))
    }

    fn scratch(&self) -> Result<Scratch, Fault> {
        let folder = self.settings.data_dir.join(COPIES).join("trial");
        Scratch::make(folder).map_err(io("a folder to try the new release in"))
    }

    /// To the new release, until all is well; or why not. `units` are those that it takes away, and
    /// those that it has; none if it does not say.
    async fn forward(
        &self,
        begun: &Begun,
        units: Option<(Vec<String>, Units)>,
        before: &Before,
        until: Instant,
    ) -> Result<(), String> {
        let folder = self.layout.folder(&begun.to);
        // First, so that there is a program that can go back if the new one cannot be started.
        let moved =
            self.layout.remember(Some(&begun.from)).and_then(|()| self.layout.switch(&begun.to));
        moved.map_err(|error| format!("the links cannot be moved: {error}"))?;
        if let Some((gone, units)) = units {
            let written = self.put_units(&units, &gone).await.map_err(|fault| fault.words())?;
            self.say_what_waits(&written).await;
        }
        self.services.restart_controller().await.map_err(|fault| fault.words())?;
        // One that ends at once is not waited for until the end: nobody can deploy meanwhile.
        tokio::select! {
            answers = self.services.controller_of(&folder, until) => answers?,
            why = self.services.controller_fails() => return Err(why),
        }
        output::line("the new controller answers");
        self.services.reload_proxy().await.map_err(|fault| fault.words())?;
        self.services.proxy_of(&folder, until).await?;
        output::line("the new proxy serves; the old one finishes its requests");
        checks::well(self.settings, &folder, before, until).await
    }

    async fn schema(&self) -> Option<i64> {
        let folder = self.settings.data_dir.clone();
        let look = tokio::task::spawn_blocking(move || mini_controller::schema(&folder)).await;
        look.ok().and_then(Result::ok)
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

fn not_copied(error: mini_controller::BackupError) -> Fault {
    Fault::new(format!("the database cannot be copied, so nothing was changed: {error}"))
        .hint("is the disk full?")
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::new(format!("{what}: {error}")).hint("do it as root; is the disk full?")
}
