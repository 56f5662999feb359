//! A platform is put into one file, lost, and brought back.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use mini_core::ports::Runtime;

use crate::platform::{Platform, block_on, deploy, fixture, until};
use crate::said::Said;

fn minid(data: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minid"));
    command.args(arguments).env("MINID_DATA_DIR", data);
    Said::from(command.output().unwrap())
}

/// As if the engine were another machine's: nothing of this server is left there.
fn lose_the_engine(platform: &Platform) {
    let engine = platform.engine(&platform.server_id());
    block_on(async {
        for instance in engine.observe().await.unwrap() {
            engine.remove(instance.id).await.unwrap();
        }
        for app in engine.networks().await.unwrap() {
            engine.remove_network(app).await.unwrap();
        }
        for image in engine.images().await.unwrap() {
            engine.remove_image(image).await.unwrap();
        }
        for volume in engine.volumes().await.unwrap() {
            engine.remove_volume(volume).await.unwrap();
        }
    });
}

fn note(platform: &Platform) -> Option<String> {
    let answer = platform.try_get("blue", "/read?path=/data/note").ok()?;
    (answer.status == 200).then(|| answer.text().trim().to_owned())
}

/// Takes a backup, loses everything, restores it; what the restore and what came after said.
fn lost_and_restored(options: &[&str]) -> Platform {
    let mut platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&["apps", "create", "blue"]);
    platform.ok(&["env", "set", "SECRET=kept well", "--app", "blue"]);
    platform.ok(&["volumes", "add", "data:/data", "--app", "blue"]);
    platform.ok(&deploy(folder.path(), "blue"));
    platform.get("blue", "/write?path=/data/note&text=before");
    let pages = tempfile::tempdir().unwrap();
    std::fs::write(pages.path().join("index.html"), "<p>a page</p>").unwrap();
    platform.ok(&deploy(pages.path(), "pages"));
    let file = platform.folder.path().join("all.tar.gz");
    let name = file.to_str().unwrap().to_owned();
    let mut arguments = vec!["backup", name.as_str()];
    arguments.extend(options);
    let said = minid(&platform.data(), &arguments);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("2 apps") && said.out.contains("wrote "), "{said:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // What comes after the backup is not in it.
    platform.get("blue", "/write?path=/data/note&text=after");

    // Beside the server that lives nothing is restored, nor over its folder.
    let restore = ["restore", name.as_str()];
    let said = minid(&platform.data(), &restore);
    assert!(said.code == 1 && said.err.contains("holds data already"), "{said:?}");
    let elsewhere = platform.folder.path().join("elsewhere");
    let said = minid(&elsewhere, &restore);
    assert!(said.code == 1 && said.err.contains("another controller has them"), "{said:?}");
    assert_eq!(note(&platform).as_deref(), Some("after"), "the live server was left alone");

    platform.down();
    lose_the_engine(&platform);
    std::fs::rename(platform.data(), platform.folder.path().join("lost")).unwrap();
    let said = minid(&platform.data(), &restore);
    assert_eq!(said.code, 0, "{said:?}");
    platform.up();
    until("the app with a volume serves again", || (note(&platform)? == "before").then_some(()));
    until("the static site serves again", || {
        platform.try_get("pages", "/").ok().filter(|a| a.text().contains("a page"))
    });
    assert_eq!(platform.get("blue", "/env").json()["SECRET"], "kept well");
    // The old token holds: this is asked with it.
    assert_eq!(platform.api(("GET", "/v1/server"), &[], b"").json()["id"], platform.server_id());
    // And it goes on from there.
    platform.ok(&deploy(fixture(&[("ROUND", "2")]).path(), "blue"));
    assert_eq!(note(&platform).as_deref(), Some("before"));
    platform
}

#[test]
fn a_lost_platform_comes_back_from_its_backup_by_building_anew() {
    let platform = lost_and_restored(&[]);
    let said = platform.ok(&["logs", "--app", "pages"]);
    assert!(said.out.contains("was made again"), "{said:?}");
}

#[test]
fn a_lost_platform_comes_back_with_the_images_that_were_saved() {
    let platform = lost_and_restored(&["--with-images", "--with-logs"]);
    let said = platform.ok(&["logs", "--app", "pages"]);
    assert!(!said.out.contains("was made again"), "{said:?}");
    assert!(said.out.contains("Release v1 created"), "the logs came too: {said:?}");
}

#[test]
fn a_backup_is_verified_and_a_broken_one_is_refused_with_the_reason() {
    let platform = Platform::start();
    platform.ok(&["apps", "create", "blue"]);
    platform.ok(&["env", "set", "SECRET=kept well", "--app", "blue"]);
    let file = platform.folder.path().join("all.tar.gz");
    let name = file.to_str().unwrap();
    assert_eq!(minid(&platform.data(), &["backup", name]).code, 0);
    let said = minid(&platform.data(), &["backup", "verify", name]);
    assert!(said.code == 0 && said.out.contains("is a good backup"), "{said:?}");

    let whole = std::fs::read(&file).unwrap();
    let broken = platform.folder.path().join("broken.tar.gz");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 4], &flipped, b"", b"no gzip"] {
        std::fs::write(&broken, bytes).unwrap();
        for verb in [&["backup", "verify"][..], &["restore"]] {
            let mut arguments = verb.to_vec();
            arguments.push(broken.to_str().unwrap());
            let elsewhere = platform.folder.path().join("elsewhere");
            let said = minid(&elsewhere, &arguments);
            assert!(said.code == 1 && said.err.contains("damaged"), "{} {said:?}", bytes.len());
            assert!(!elsewhere.join("mini.db").exists());
        }
    }
    // A place that cannot be written.
    let said = minid(&platform.data(), &["backup", "/dev/full/x"]);
    assert!(said.code == 1 && said.err.contains("hint:"), "{said:?}");
    let said = minid(&platform.folder.path().join("none"), &["backup", name]);
    assert!(said.code == 1 && said.err.contains("no server's data"), "{said:?}");
    assert_eq!(std::fs::read(&file).unwrap(), whole, "the good one is still there");
}

#[test]
fn backups_are_made_by_themselves_and_the_last_few_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("backups");
    let flags =
        ["--backup-dir", folder.to_str().unwrap(), "--backup-every", "1s", "--backup-keep", "2"];
    let platform = Platform::start_with(&flags, &[]);
    let names = || {
        let all = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = all.map(|e| e.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".tar.gz")).collect();
        names.sort();
        names
    };
    let first = until("there is one", || names().into_iter().next());
    until("it went, and two newer ones are there", || {
        let names = names();
        (!names.contains(&first) && names.len() == 2).then_some(())
    });
    let said = minid(&platform.data(), &["status"]);
    assert!(said.code == 0 && said.out.contains("\nbackup      /"), "{said:?}");
    // A failure is a fault until one goes well again.
    std::fs::rename(&folder, place.path().join("moved")).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    until("status says so", || {
        let said = minid(&platform.data(), &["status"]);
        let told = said.out.contains("FAULT the last scheduled backup failed");
        (said.code == 1 && told).then_some(())
    });
    for entry in std::fs::read_dir(place.path().join("moved")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "gz") {
            let said = minid(&platform.data(), &["backup", "verify", path.to_str().unwrap()]);
            assert_eq!(said.code, 0, "{said:?}");
        }
    }
}

#[test]
fn a_second_backup_waits_for_the_first_and_a_scheduled_one_is_left_for_later() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("backups");
    let flags = ["--backup-dir", folder.to_str().unwrap(), "--backup-every", "1s"];
    let platform = Platform::start_with(&flags, &[]);
    // As a backup does that takes long.
    let held = std::fs::File::open(platform.data()).unwrap();
    held.lock().unwrap();
    until("the scheduled one is left", || {
        platform.log().contains("the scheduled one is left for later").then_some(())
    });
    let file = platform.folder.path().join("all.tar.gz");
    let mut second = Command::new(env!("CARGO_BIN_EXE_minid"))
        .args(["backup", file.to_str().unwrap()])
        .env("MINID_DATA_DIR", platform.data())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(second.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for it to end"), "{line}");
    assert!(!file.exists() && second.try_wait().unwrap().is_none());
    drop(held);
    assert!(second.wait().unwrap().success());
    let said = minid(&platform.data(), &["backup", "verify", file.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{said:?}");
    until("the scheduled one is made", || std::fs::read_dir(&folder).ok()?.next().map(drop));
}
