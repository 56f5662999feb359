//! `minid restore`: the whole platform back out of one file.
//!
//! On a machine where the installer has been it is one command: it stops the services, moves what
//! the new server has written aside, restores, and starts them.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use mini_controller::{BackupLock, Firewall, Manifest};

use super::backup::{engine, fault};
use super::firewall;
use crate::installed;
use crate::output::{self, Fault};
use crate::services::Services;
use crate::settings::{Flags, Settings};

#[derive(Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Remove what the engine has of this server: its containers, and the volumes in the backup;
    /// where it is installed, also replace a server that has apps
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) async fn run(restore: Restore) -> Result<ExitCode, Fault> {
    let settings = restore.flags.clone().resolve()?;
    let services = Services { settings: &settings };
    let installed = installed::data_dir().is_some_and(|d| d == settings.data_dir)
        && services.check().await.is_ok();
    if !installed {
        put_back(&settings, &restore).await?;
        hand_to_proxy(&settings)?;
        output::line(&format!(
            "restored into {}: start the server on it (`minid run`, or its service); it builds or \
             pulls what images are missing, and starts every app",
            settings.data_dir.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything is stopped.
    let verified = mini_controller::verify(restore.file.clone(), std::env::temp_dir()).await;
    let manifest = verified.map_err(|error| fault(&error))?;
    may_be_replaced(&settings, &manifest, restore.force)?;
    // Where there is nothing yet there is nothing to hold.
    let _lock = match BackupLock::take(&settings.data_dir) {
        Ok(None) => {
            return Err(Fault::new(
                "a backup of this server is being made, and nothing was changed",
            )
            .hint("wait for it to end"));
        }
        taken => taken.ok(),
    };
    services.stop().await?;
    // Of a server that is not this one's any more nothing may hold apps back.
    if let Some(server) = firewall::server(&settings).await {
        let _ = Firewall::new(firewall::rules(&settings, &server)).remove().await;
    }
    let aside = move_aside(&settings)?;
    if let Err(fault) = put_back(&settings, &restore).await {
        take_back(&settings, &aside)?;
        services.start().await?;
        return Err(fault);
    }
    let handed = hand_to_proxy(&settings);
    services.start().await?;
    handed?;
    output::line(&format!(
        "restored, and the server runs: it builds or pulls what images are missing, and starts every \
         app (`minid status`). What was in {} before is in {}",
        settings.data_dir.display(),
        aside.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// A server that nobody has used yet is replaced; one with apps only where that is asked for, and
/// only by a backup of itself, since its containers would be nobody's afterwards.
fn may_be_replaced(settings: &Settings, manifest: &Manifest, force: bool) -> Result<(), Fault> {
    let folder = settings.data_dir.display();
    if !settings.data_dir.join("mini.db").exists() {
        return Ok(());
    }
    let glance = mini_controller::glance(&settings.data_dir);
    let glance = glance.map_err(|error| {
        Fault::new(format!("{folder} holds data that cannot be read: {error}"))
            .hint("stop the services and move that folder away first")
    })?;
    if glance.apps == 0 {
        return Ok(());
    }
    let has = format!("the server in {folder} has {} apps, and is left as it is", glance.apps);
    if glance.server.as_deref() != Some(&manifest.origin.server) {
        return Err(Fault::new(has).hint(
            "the backup is of another server: restore it on a new machine, or destroy these apps \
             first",
        ));
    }
    match force {
        true => Ok(()),
        false => {
            Err(Fault::new(has).hint("--force goes back to the backup; the folder is kept aside"))
        }
    }
}

async fn put_back(settings: &Settings, restore: &Restore) -> Result<(), Fault> {
    let (folder, file) = (settings.data_dir.clone(), restore.file.clone());
    let connecting = settings.clone();
    let connect = move |server| engine(&connecting, server);
    let restored = mini_controller::restore(folder, file, restore.force, connect).await;
    for line in restored.map_err(|error| fault(&error))?.manifest.lines() {
        output::line(&line);
    }
    Ok(())
}

fn beside(folder: &Path) -> PathBuf {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    PathBuf::from(format!("{}.before-{stamp}", folder.display()))
}

/// The data folder's content to a folder beside it, which is answered with.
fn move_aside(settings: &Settings) -> Result<PathBuf, Fault> {
    let aside = beside(&settings.data_dir);
    let moved = fs::rename(&settings.data_dir, &aside)
        .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&settings.data_dir));
    moved.map_err(|error| {
        Fault::new(format!("{} cannot be moved aside: {error}", settings.data_dir.display()))
            .hint("where it is a disk of its own: stop the services and empty it by hand")
    })?;
    Ok(aside)
}

/// As it was before [`move_aside`].
fn take_back(settings: &Settings, aside: &Path) -> Result<(), Fault> {
    let back =
        fs::remove_dir_all(&settings.data_dir).and_then(|()| fs::rename(aside, &settings.data_dir));
    back.map_err(|error| {
        Fault::new(format!("{} cannot be moved back: {error}", aside.display()))
            .hint("move it back by hand, then start the services")
    })
}

/// Where the proxy has a folder of its own, its certificates go there and are its user's; the
/// routes that it knew are another server's.
fn hand_to_proxy(settings: &Settings) -> Result<(), Fault> {
    move_certificates(settings).map_err(|error| {
        let folder = settings.tls_dir();
        Fault::new(format!("the proxy's certificates, {}: {error}", folder.display()))
            .hint("all else is restored; copy them there from tls/ in the data folder")
    })
}

fn move_certificates(settings: &Settings) -> io::Result<()> {
    if settings.proxy_dir == settings.data_dir {
        return Ok(());
    }
    match fs::remove_file(settings.proxy_dir.join("routes.snapshot")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (from, to) = (settings.data_dir.join("tls"), settings.tls_dir());
    if !from.exists() {
        return Ok(());
    }
    let owner = fs::metadata(&settings.proxy_dir)?;
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    copy(&from, &to, &|path| chown(path, Some(owner.uid()), Some(owner.gid())))?;
    fs::remove_dir_all(&from)
}

fn copy(from: &Path, to: &Path, own: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    if from.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), own)?;
        }
    } else {
        // With its mode.
        fs::copy(from, to)?;
    }
    own(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_copied_whole_and_each_part_gets_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("tls");
        fs::create_dir_all(from.join("a")).unwrap();
        fs::write(from.join("door.pem"), "1").unwrap();
        fs::write(from.join("a/b"), "2").unwrap();
        let owned = std::cell::RefCell::new(Vec::new());
        let to = folder.path().join("new");
        copy(&from, &to, &|path| {
            owned.borrow_mut().push(path.strip_prefix(&to).unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b")).unwrap(), "2");
        let mut owned = owned.into_inner();
        owned.sort();
        assert_eq!(owned, ["", "a", "a/b", "door.pem"].map(PathBuf::from));
    }
}
