//! The way back, from wherever an upgrade was left: by hand or by the upgrade itself while the services run,
//! or at a boot before they do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::checks::{self, Before};
use super::journal::Begun;
use super::{Upgrade, io};
use crate::output::{self, Fault};

/// How long the old release has to be back. It ran before.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A database that was written later than this after an upgrade began is one that the new release has
/// worked with: what is in it is not put aside without being asked for.
const AT_WORK: SignedDuration = SignedDuration::from_mins(15);

impl Upgrade<'_> {
    /// Takes back what was cut off, before the services start; where nothing was, does nothing.
    pub(crate) async fn recover(&self) -> Result<(), Fault> {
        let Some(begun) = self.cut_off()? else { return Ok(()) };
        let by_hand = "`minid upgrade --back` takes the upgrade back";
        if self.services.has_controller().await {
            return Err(Fault::new("the controller runs").hint(by_hand));
        }
        let has_changed = self.has_changed(&begun).await;
        let at_work = |written: Timestamp| written.duration_since(begun.at) > AT_WORK;
        if has_changed && self.written_at().is_some_and(at_work) {
            return Err(Fault::new(format!(
                "an upgrade to {} was cut off at {}, and it has worked with the database since",
                begun.to, begun.at
            ))
            .hint(by_hand));
        }
        output::line(&format!("an upgrade to {} was cut off: going back", begun.to));
        self.move_back(&begun).await?;
        if has_changed {
            self.bring_back_database(&begun).map_err(io("the database cannot be put back"))?;
        }
        self.over(&begun)
    }

    /// What was begun and is not over, unless the installer has put yet another release there since.
    pub(super) fn cut_off(&self) -> Result<Option<Begun>, Fault> {
        let Some(begun) = self.journal.begun()? else { return Ok(None) };
        let current = self.layout.current().map_err(io("the current release"))?;
        if current == begun.from || current == begun.to {
            return Ok(Some(begun));
        }
        output::line(&format!("an upgrade to {} was cut off; {current} is here since", begun.to));
        self.journal.end().map_err(io("the journal"))?;
        Ok(None)
    }

    /// The link and the units, to the release before. Units that cannot be put back keep nobody
    /// from serving.
    async fn move_back(&self, begun: &Begun) -> Result<(), Fault> {
        let from = &begun.from;
        if !self.layout.folder(from).join("minid").exists() {
            return Err(Fault::new(format!("{from} is not on this machine any more"))
                .hint("install a release: packaging/install.sh"));
        }
        self.layout.switch(from).map_err(io("the link cannot be moved back"))?;
        let put = match self.units_of(from).await {
            Ok(Some(units)) => self.put_units(&units, &begun.added_units).await.map(drop),
            Ok(None) => Ok(()),
            Err(why) => Err(Fault::new(why)),
        };
        if let Err(fault) = put {
            output::line(&format!("the units are not those of {from}: {}", fault.words()));
        }
        Ok(())
    }

    /// To the release before, whatever of the new one there is.
    pub(super) async fn go_back(&self, begun: &Begun, before: &Before) -> Result<(), Fault> {
        let by_hand = "`minid status` and `journalctl -u mini-controller -u mini-proxy` say more; \
                       `minid upgrade` tries to go back again";
        let (old, new) = (self.layout.folder(&begun.from), self.layout.folder(&begun.to));
        let until = Instant::now() + BACK_WITHIN;
        self.move_back(begun).await?;
        if self.has_changed(begun).await {
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
        let well = checks::well(self.settings, &old, before, until).await;
        well.map_err(|why| Fault::new(format!("back at {}, but {why}", begun.from)).hint(by_hand))?;
        self.over(begun)
    }

    /// All is as it was before.
    fn over(&self, begun: &Begun) -> Result<(), Fault> {
        let previous = begun.previous.as_deref();
        self.layout.remember(previous).map_err(io("the link to the release before"))?;
        self.journal.end().map_err(io("the journal"))?;
        output::line(&format!("back at {}", begun.from));
        Ok(())
    }

    /// Whether the database has another schema than before, or is not there: then it was being put
    /// back. Where it cannot be read nothing is known, and the old controller will say why.
    async fn has_changed(&self, begun: &Begun) -> bool {
        !self.settings.data_dir.join("mini.db").exists()
            || self.schema().await.is_some_and(|schema| schema != begun.schema)
    }

    /// When the database was last written.
    fn written_at(&self) -> Option<Timestamp> {
        let written = ["mini.db", "mini.db-wal"].map(|name| {
            let at = fs::metadata(self.settings.data_dir.join(name)).ok()?.modified().ok()?;
            Timestamp::try_from(at).ok()
        });
        written.into_iter().flatten().max()
    }

    /// The copy that the new controller made before it changed the schema takes the database's
    /// place; what was changed since stays beside it. Where it is cut off it may be done again.
    fn bring_back_database(&self, begun: &Begun) -> std::io::Result<()> {
        let folder = &self.settings.data_dir;
        let copy = mini_controller::copy_before(folder, begun.schema, begun.at.into())?;
        let (database, new) = (folder.join("mini.db"), folder.join("mini.db.new"));
        fs::copy(&copy, &new)?;
        fs::File::open(&new)?.sync_all()?;
        let stamp = begun.at.strftime("%Y%m%dT%H%M%SZ");
        let aside = folder.join(format!("mini.db.of-{}-{stamp}", begun.to));
        // The database first: as long as it is not there, it is known what was being done.
        for ending in ["", "-wal", "-shm"] {
            let with = |path: &Path| PathBuf::from(format!("{}{ending}", path.display()));
            if with(&database).exists() {
                fs::rename(with(&database), with(&aside))?;
            }
        }
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
