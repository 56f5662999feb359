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
        target: Some(3),
        release: None,
        cause: None,
        created_by: Some("me".into()),
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
            timing: Timing::default(),
        },
        env: vec![9],
        image_name: None,
        source: Some("ab".repeat(32).parse().unwrap()),
        deployment: deployment.parse().unwrap(),
        created_by: None,
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
async fn a_database_of_the_first_version_is_migrated_and_a_copy_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mini.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(include_str!("migrations/0001.sql")).unwrap();
    connection
        .execute_batch(
            "INSERT INTO apps (name, created_at, desired, subnet) VALUES ('old', 1, 'run', '10.0.0.0/26');
             INSERT INTO deployments (id, app_id, kind, status, description, created_at)
                 VALUES ('d1', 1, 'deploy', 'queued', 'Deploy', 1);
             PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let store = Store::open(&path).unwrap();
    let (apps, waiting) =
        store.read(|c| Ok((all_apps(c)?, unfinished_deployments(c)?))).await.unwrap();
    assert_eq!((apps[0].name.as_str(), waiting[0].target), ("old", None));
    assert!(folder.path().join("mini.before-2.db").exists());
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
