use std::collections::BTreeMap;

use mini_api::{DeploymentKind, DeploymentStatus, EventBody};
use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use mini_core::plan::Desired;
use mini_core::release::{HealthSpec, ReleaseSpec, Timing};
use mini_core::time::Millis;

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    app: AppRow,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("mini.db")).unwrap();
    let app = make_app(&store, "blue").await;
    Bench { folder, store, app }
}

async fn make_app(store: &Store, name: &str) -> AppRow {
    let name: AppName = name.parse().unwrap();
    let pool = "10.210.0.0/16".parse().unwrap();
    let made = store.write(move |tx| create_app(tx, &name, (pool, &[]), Millis(1))).await.unwrap();
    let Created::App(app) = made else { panic!("{made:?}") };
    app
}

fn deployment_row(app: AppId, id: &str, at: u64) -> DeploymentRow {
    DeploymentRow {
        id: id.parse().unwrap(),
        app,
        kind: DeploymentKind::Deploy,
        status: DeploymentStatus::Queued,
        description: "Deploy".into(),
        source: None,
        image_name: Some("hello:1".into()),
        rebuild: false,
        strategy: None,
        target: Some(3),
        release: None,
        cause: None,
        created_by: Some("me".into()),
        token: Some("0123456789ab".parse().unwrap()),
        created_at: Millis(at),
        finished_at: None,
        idempotency_key: Some(format!("key-{id}")),
        request_hash: Some(vec![1, 2]),
    }
}

fn release_row(number: u32, deployment: &str) -> ReleaseRow {
    ReleaseRow {
        number,
        created_at: Millis(5),
        description: "Deploy".into(),
        spec: ReleaseSpec {
            image: format!("sha256:{number}"),
            port: 8080,
            processes: BTreeMap::new(),
            health: HealthSpec::default(),
            release_command: None,
            strategy: mini_core::release::Strategy::Rolling,
            volumes: Vec::new(),
            rules: mini_core::rules::Rules::default(),
            password_vars: BTreeMap::new(),
            timing: Timing::default(),
        },
        env: vec![9],
        image_name: None,
        source: Some("ab".repeat(32).parse().unwrap()),
        deployment: deployment.parse().unwrap(),
        created_by: None,
        prepared: false,
    }
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let Bench { folder, store, app } = bench().await;
    let row = deployment_row(app.id, "d1", 10);
    let expected = row.clone();
    store.write(move |tx| enqueue(tx, &row).map(drop)).await.unwrap();
    let (id, release) = (app.id, release_row(1, "d1"));
    let again = release.clone();
    store
        .write(move |tx| {
            assert_eq!(next_release_number(tx, id)?, 1);
            insert_release(tx, id, &release)?;
            set_release(tx, &"d1".parse().unwrap(), 1)?;
            change_env(tx, id, &[("A".into(), Some(vec![7])), ("B".into(), Some(vec![8]))])?;
            change_env(tx, id, &[("B".into(), None)])
        })
        .await
        .unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("mini.db")).unwrap();
    let found = store
        .read(move |c| {
            assert_eq!(env_of(c, id)?, [("A".to_owned(), vec![7])]);
            assert_eq!(super::release(c, id, 1)?.unwrap(), again);
            assert_eq!(release_of_source(c, id, again.source.as_ref().unwrap())?.unwrap(), again);
            deployment(c, &"d1".parse().unwrap())
        })
        .await
        .unwrap();
    assert_eq!(found.unwrap(), DeploymentRow { release: Some(1), ..expected });
}

#[tokio::test]
async fn a_newer_deployment_supersedes_the_one_that_waits() {
    let Bench { store, app, folder: _folder } = bench().await;
    let [first, second] = ["d1", "d2"].map(|id| deployment_row(app.id, id, 10));
    let superseded = store
        .write(move |tx| {
            enqueue(tx, &first)?;
            enqueue(tx, &second)
        })
        .await
        .unwrap();
    assert_eq!(superseded, ["d1".parse::<DeploymentId>().unwrap()]);
    let (waiting, told) = store
        .read(|c| Ok((unfinished_deployments(c)?, events(c, &"d1".parse().unwrap(), 0, 10)?)))
        .await
        .unwrap();
    assert_eq!(waiting.len(), 1);
    let bodies: Vec<EventBody> = told.into_iter().map(|e| e.body).collect();
    let status = |status| EventBody::Status { status };
    assert_eq!(bodies, [status(DeploymentStatus::Queued), status(DeploymentStatus::Superseded)]);
}

#[tokio::test]
async fn a_restart_or_new_config_vars_do_not_pass_code_that_waits() {
    let Bench { store, app, folder: _folder } = bench().await;
    let row = |id: &str, kind| DeploymentRow { kind, ..deployment_row(app.id, id, 10) };
    let rows = [
        row("d1", DeploymentKind::Deploy),
        row("d2", DeploymentKind::Config),
        row("d3", DeploymentKind::Restart),
        row("d4", DeploymentKind::Restart),
        row("d5", DeploymentKind::Config),
    ];
    let waiting = store
        .write(move |tx| {
            for row in &rows {
                enqueue(tx, row)?;
            }
            let all: Vec<_> = unfinished_deployments(tx)?.into_iter().map(|d| d.id).collect();
            enqueue(tx, &deployment_row(rows[0].app, "d6", 11))?;
            assert_eq!(unfinished_deployments(tx)?.len(), 1, "newer code passes all");
            Ok(all)
        })
        .await
        .unwrap();
    assert_eq!(waiting, ["d1", "d5"].map(|id| id.parse::<DeploymentId>().unwrap()));
}

#[tokio::test]
async fn a_restart_that_was_cancelled_undoes_no_destroy() {
    let Bench { store, app, folder: _folder } = bench().await;
    let (id, row) = (app.id, deployment_row(app.id, "d1", 10));
    let desired = store
        .write(move |tx| {
            enqueue(tx, &row)?;
            finish(tx, &row.id, DeploymentStatus::Cancelled, None, Millis(11))?;
            set_desired(tx, id, Desired::Destroy)?;
            assert!(!begin_again(tx, id, &row.id, 1, Millis(12))?);
            Ok(app_by_id(tx, id)?.unwrap().desired)
        })
        .await
        .unwrap();
    assert_eq!(desired, Desired::Destroy);
}

#[tokio::test]
async fn the_commit_is_one_transaction_and_happens_once() {
    let Bench { store, app, folder: _folder } = bench().await;
    let (id, row) = (app.id, deployment_row(app.id, "d1", 10));
    let d1: DeploymentId = "d1".parse().unwrap();
    let (again, cancelled) = store
        .write(move |tx| {
            enqueue(tx, &row)?;
            next_release_number(tx, id)?;
            insert_release(tx, id, &release_row(1, "d1"))?;
            set_release(tx, &d1, 1)?;
            assert!(set_status(tx, &d1, DeploymentStatus::Starting, Millis(11))?);
            assert!(commit_live(tx, &d1, 400, Millis(12))?);
            assert!(announce_live(tx, &d1, "http://blue.localhost", Millis(13))?);
            let again = commit_live(tx, &d1, 400, Millis(13))?;
            let cancelled = finish(tx, &d1, DeploymentStatus::Cancelled, None, Millis(14))?;
            Ok((again, cancelled))
        })
        .await
        .unwrap();
    assert!(!again && !cancelled);
    let (app, numbers) = store
        .read(move |c| {
            let numbers =
                events(c, &"d1".parse().unwrap(), 0, 10)?.iter().map(|e| e.number).collect();
            Ok::<(_, Vec<u64>), _>((app_by_id(c, id)?.unwrap(), numbers))
        })
        .await
        .unwrap();
    assert_eq!((app.live_release, app.live_at), (Some(1), Some(Millis(12))));
    assert_eq!(numbers, [1, 2, 3, 4, 5], "without a gap");
}

#[tokio::test]
async fn a_failed_start_leaves_a_stopped_app_stopped() {
    let Bench { store, app, folder: _folder } = bench().await;
    let (id, row) = (app.id, deployment_row(app.id, "d1", 10));
    let second = deployment_row(app.id, "d2", 20);
    let desired = store
        .write(move |tx| {
            enqueue(tx, &row)?;
            next_release_number(tx, id)?;
            insert_release(tx, id, &release_row(1, "d1"))?;
            set_release(tx, &row.id, 1)?;
            commit_live(tx, &row.id, 1, Millis(12))?;
            announce_live(tx, &row.id, "u", Millis(12))?;
            set_desired(tx, id, Desired::Stop)?;
            enqueue(tx, &second)?;
            set_desired(tx, id, Desired::Run)?;
            finish(tx, &second.id, DeploymentStatus::Failed, None, Millis(13))?;
            Ok(app_by_id(tx, id)?.unwrap().desired)
        })
        .await
        .unwrap();
    assert_eq!(desired, Desired::Stop);
}

#[tokio::test]
async fn subnets_go_round_and_names_are_taken_once() {
    let Bench { store, app, folder: _folder } = bench().await;
    let red = make_app(&store, "red").await;
    assert_eq!(
        (app.subnet.to_string(), red.subnet.to_string()),
        ("10.210.0.0/26".into(), "10.210.0.64/26".into())
    );
    store.write(move |tx| delete_app(tx, app.id)).await.unwrap();
    let green = make_app(&store, "green").await;
    assert_eq!(green.subnet.to_string(), "10.210.0.128/26", "the freed one comes round later");
    let pool = "10.210.0.0/16".parse().unwrap();
    let taken = store
        .write(move |tx| create_app(tx, &"red".parse().unwrap(), (pool, &[]), Millis(1)))
        .await
        .unwrap();
    assert_eq!(taken, Created::NameTaken);
}

#[tokio::test]
async fn a_failed_transaction_leaves_nothing() {
    let Bench { store, app, folder: _folder } = bench().await;
    let id = app.id;
    let failed = store
        .write(move |tx| {
            change_env(tx, id, &[("A".into(), Some(vec![1]))])?;
            Err::<(), _>(StoreError::Closed)
        })
        .await;
    assert!(failed.is_err());
    assert!(store.read(move |c| env_of(c, id)).await.unwrap().is_empty());
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mini.db");
    drop(Store::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    match Store::open(&path).err() {
        Some(StoreError::Newer { found: 99, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_database_of_any_version_is_migrated_and_a_copy_kept() {
    let schemas = [
        include_str!("migrations/0001.sql"),
        include_str!("migrations/0002.sql"),
        include_str!("migrations/0003.sql"),
        include_str!("migrations/0004.sql"),
        include_str!("migrations/0005.sql"),
        include_str!("migrations/0006.sql"),
        include_str!("migrations/0007.sql"),
    ];
    for version in 1..=schemas.len() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mini.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&schemas[..version].concat()).unwrap();
        connection
            .execute_batch(&format!(
                "INSERT INTO apps (name, created_at, desired, subnet)
                     VALUES ('old', 1, 'run', '10.0.0.0/26');
                 INSERT INTO deployments (id, app_id, kind, status, description, created_at)
                     VALUES ('d1', 1, 'deploy', 'queued', 'Deploy', 1);
                 PRAGMA user_version = {version};"
            ))
            .unwrap();
        drop(connection);
        // An upgrade that was taken back has left its copy.
        let copy = folder.path().join(format!("mini.before-{}.db", schema::known()));
        std::fs::write(&copy, "an older one").unwrap();
        let store = Store::open(&path).unwrap();
        let (apps, waiting) =
            store.read(|c| Ok((all_apps(c)?, unfinished_deployments(c)?))).await.unwrap();
        let first = &waiting[0];
        assert_eq!((apps[0].name.as_str(), first.target, first.strategy), ("old", None, None));
        let since = std::time::SystemTime::UNIX_EPOCH;
        let schema = version as i64;
        let found = crate::copy_before(folder.path(), schema, since);
        assert_eq!(found.ok(), Some(copy), "from version {version}");
        assert!(crate::copy_before(folder.path(), schema + 100, since).is_err());
    }
}

#[tokio::test]
async fn only_the_newest_deployments_keep_their_events() {
    let Bench { store, app, folder: _folder } = bench().await;
    let id = app.id;
    let kept: Vec<usize> = store
        .write(move |tx| {
            for n in 0..5_u64 {
                let row = deployment_row(id, &format!("d{n}"), n);
                enqueue(tx, &row)?;
                if n < 4 {
                    finish(tx, &row.id, DeploymentStatus::Live, None, Millis(n))?;
                }
            }
            prune_events(tx, 2)?;
            (0..5).map(|n| Ok(events(tx, &format!("d{n}").parse().unwrap(), 0, 9)?.len())).collect()
        })
        .await
        .unwrap();
    assert_eq!(kept, Vec::from([0, 0, 2, 2, 1]), "and the unfinished one all of them");
}

#[tokio::test]
async fn what_was_committed_is_read_where_nothing_can_be_written() {
    let bench = bench().await;
    let crashed = tempfile::tempdir().unwrap();
    let path = crashed.path().join("100% of #1?.db");
    // As a crash leaves it: the last commits are in the log alone, and its index is lost.
    std::fs::copy(bench.folder.path().join("mini.db"), &path).unwrap();
    let log = crashed.path().join("100% of #1?.db-wal");
    std::fs::copy(bench.folder.path().join("mini.db-wal"), &log).unwrap();
    assert!(std::fs::metadata(&log).unwrap().len() > 0, "a log with something in it");
    let name = bench.app.name.clone();
    let read = |path: &Path| app_by_name(&open::without_locks(path).unwrap(), &name).unwrap();
    assert_eq!(read(&path).as_ref(), Some(&bench.app));
    let left: Vec<_> = std::fs::read_dir(crashed.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing was made: {left:?}");
    // As an orderly end leaves it: there is no log.
    drop(open::to_write(&path).unwrap());
    assert!(!log.exists());
    assert_eq!(read(&path).as_ref(), Some(&bench.app));
}

#[tokio::test]
async fn the_reserve_is_given_up_for_what_must_be_written_and_made_again() {
    let bench = bench().await;
    let reserve = bench.folder.path().join("reserve");
    assert!(reserve.exists());
    let full = || StoreError::Full("no space".into());
    // A change of a user's does not touch it.
    bench.store.write(move |_| Err::<(), _>(full())).await.unwrap_err();
    assert!(reserve.exists() && bench.store.trouble().is_some());
    let tries = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = tries.clone();
    let written = bench.store.write_from_reserve(move |_| {
        match counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Err(full()),
            n => Ok(n),
        }
    });
    assert_eq!(written.await.unwrap(), 1, "the second try");
    assert!(!reserve.exists());
    assert_eq!(bench.store.trouble(), None);
    bench.store.look_after().await;
    assert!(reserve.exists());
}

#[tokio::test]
async fn a_domain_is_one_apps_at_a_time_and_free_when_the_app_is_gone() {
    let Bench { store, app, folder: _folder } = bench().await;
    let (blue, red) = (app.id, make_app(&store, "red").await.id);
    let [www, wild] = ["www.example.com", "*.example.com"]
        .map(|d| d.parse::<mini_core::name::HostPattern>().unwrap());
    let kept = store
        .write(move |tx| {
            assert_eq!(claim_domain(tx, blue, &www, Millis(1))?, Claimed::New);
            assert_eq!(claim_domain(tx, blue, &www, Millis(2))?, Claimed::Already);
            let others = Claimed::ByOther("blue".parse().unwrap());
            assert_eq!(claim_domain(tx, red, &www, Millis(3))?, others);
            assert!(!let_domain_go(tx, red, &www)?, "it is not red's");
            assert_eq!(claim_domain(tx, red, &wild, Millis(4))?, Claimed::New);
            assert_eq!(domain_owner(tx, &wild)?.unwrap().1.as_str(), "red");
            set_page(tx, blue, "*", "<h1>")?;
            delete_app(tx, blue)?;
            assert_eq!(claim_domain(tx, red, &www, Millis(5))?, Claimed::New);
            assert_eq!(bytes_of_pages(tx, (red, "*"))?, 0, "pages go with their app");
            domain_rows(tx, red)
        })
        .await
        .unwrap();
    let shown: Vec<_> = kept.iter().map(|d| (d.domain.as_str(), d.created_at)).collect();
    assert_eq!(shown, [("*.example.com", Millis(4)), ("www.example.com", Millis(5))]);
}

#[tokio::test]
async fn maintenance_and_pages_say_whether_they_changed() {
    let Bench { store, app, folder: _folder } = bench().await;
    let id = app.id;
    store
        .write(move |tx| {
            assert!(set_maintenance(tx, id, true)? && !set_maintenance(tx, id, true)?);
            assert!(app_by_id(tx, id)?.unwrap().maintenance);
            assert!(set_page(tx, id, "H80", "ä")? && !set_page(tx, id, "H80", "ä")?);
            assert!(set_page(tx, id, "*", "any")?);
            assert_eq!(bytes_of_pages(tx, (id, "*"))?, 2, "bytes, not characters");
            let pages = pages_of(tx, id)?;
            assert_eq!(pages, [("*".into(), "any".into()), ("H80".to_owned(), "ä".to_owned())]);
            assert!(unset_page(tx, id, "*")? && !unset_page(tx, id, "*")?);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_change_has_its_audit_entry_whenever_the_process_dies() {
    let Bench { folder, store, app } = bench().await;
    let id = app.id;
    let entry = AuditRow {
        at: Millis(1),
        actor: Some("ci".into()),
        token_id: None,
        action: "apps.stop".into(),
        app: Some("blue".into()),
        target: None,
        status: BEGUN,
        request_id: "r1".into(),
        source: None,
    };
    // A transaction that comes to nothing takes no entry along.
    let trail = Trail::of(entry.clone());
    let failed: StoreResult<()> = trail
        .around(store.write(move |tx| {
            set_desired(tx, id, Desired::Stop)?;
            Err(StoreError::Closed)
        }))
        .await;
    assert!(failed.is_err() && trail.row().is_none());
    assert_eq!(store.read(|c| audit(c, None, None, 9)).await.unwrap(), []);
    // What others write meanwhile is not this change.
    store.write(|tx| set_meta(tx, "other", "1")).await.unwrap();
    assert!(trail.row().is_none());
    // The first one that goes through takes it, and no later one does.
    trail.around(store.write(move |tx| set_desired(tx, id, Desired::Stop))).await.unwrap();
    trail.around(store.write_from_reserve(|tx| set_meta(tx, "more", "1"))).await.unwrap();
    // Nobody comes to say what it came to: the process dies here.
    drop(store);
    let store = Store::open(&folder.path().join("mini.db")).unwrap();
    let (found, desired) = store
        .read(move |c| Ok((audit(c, None, None, 9)?, app_by_id(c, id)?.unwrap().desired)))
        .await
        .unwrap();
    assert_eq!((found, desired), (vec![entry.clone()], Desired::Stop));
    // Where it does not, the entry is completed in place.
    let row = trail.row().unwrap();
    let done = AuditRow { status: 202, target: Some("all".into()), ..entry };
    let completed = done.clone();
    store.write(move |tx| complete_audit(tx, row, &completed)).await.unwrap();
    assert_eq!(store.read(|c| audit(c, None, None, 9)).await.unwrap(), [done]);
}
