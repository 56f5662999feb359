//! What somebody with a token of one app tries to get of another one.

use bytes::Bytes;
use mini_api::session::{NewExec, NewRun};
use mini_api::{EnvChange, ErrorCode, NewToken, Rollback, Rotate, Scope};
use mini_core::source::SourceDigest;
use mini_core::testing::Call;

use super::access::refusal;
use super::*;

fn red() -> AppName {
    "red".parse().unwrap()
}

fn of_image(name: &str) -> NewDeployment {
    NewDeployment { image: Some(name.into()), ..NewDeployment::default() }
}

fn of_source(digest: &SourceDigest) -> NewDeployment {
    NewDeployment { source: Some(digest.clone()), ..NewDeployment::default() }
}

/// A source that can be built, told apart by `text`.
fn tar_of(text: &str) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let dockerfile = format!("FROM scratch\nENV IT={text}\nCMD [\"/app\"]\n");
    let mut header = tar::Header::new_ustar();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).unwrap();
    tar.into_inner().unwrap().into()
}

impl House {
    /// The app `red` beside `blue`, live with `hello:2`.
    async fn with_red() -> Self {
        let house = Self::with_blue().await;
        house.create("red").await;
        house.runs(&house.client, &red(), &of_image("hello:2")).await;
        house
    }

    /// Deploys, and follows it to its good end.
    async fn runs(&self, client: &Client, app: &AppName, new: &NewDeployment) {
        self.engine.set_now(clock::now());
        let id = client.deploy(app, new, &self.key()).await.unwrap().id;
        self.ends(&id, DeploymentStatus::Live).await;
    }

    async fn sends(&self, client: &Client, app: &AppName, text: &str) -> SourceDigest {
        let body = futures_util::stream::iter([Ok(tar_of(text))]);
        client.upload_source(app, body).await.unwrap().digest
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_token_runs_images_of_its_app_and_of_nobody_and_no_others() {
    let house = House::with_red().await;
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    // What mini built for an app, and no release has (any more).
    let left = ImageInfo { built: true, ..image("left") };
    house.engine.add_image("mini-x/gone:d1", left.clone());
    for theirs in ["hello:2", image("hello:2").id.as_str(), "mini-x/gone:d1", &left.id] {
        let refused = refusal(ci.deploy(&blue(), &of_image(theirs), &house.key()).await);
        assert_eq!(refused.code, ErrorCode::OutOfScope, "{theirs}: {refused}");
        assert!(!refused.message.contains("red"), "whose it is is not told: {refused}");
        assert!(refused.hint.unwrap().contains("a token that is for both apps"));
    }
    // Its own by name and id, and nobody's.
    for fine in ["hello:1", image("hello:1").id.as_str(), "hello:3"] {
        house.runs(&ci, &blue(), &of_image(fine)).await;
    }
    let refused = house.trail().await.entries.into_iter().filter(|e| e.status == 403);
    assert_eq!(refused.filter(|e| e.action == "deployments.create").count(), 4);

    // A token for both apps, and one of an admin, may; then it is blue's too.
    let both = house.with_token("both", Scope::Deploy, &["blue", "red"]).await;
    house.runs(&both, &blue(), &of_image("hello:2")).await;
    house.runs(&ci, &blue(), &of_image("hello:2")).await;
    house.runs(&house.client, &blue(), &of_image("mini-x/gone:d1")).await;
    house.runs(&ci, &blue(), &of_image("mini-x/gone:d1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_judged_by_what_its_name_leads_to_in_the_end() {
    let house = House::with_red().await;
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    let fails = async |id: &DeploymentId| {
        let cause = house.ends(id, DeploymentStatus::Failed).await.cause.unwrap();
        assert_eq!(cause.code, "out_of_scope", "{cause:?}");
    };
    // A registry answers with what the engine has: no layer need be sent.
    house.engine.add_to_registry("evil.test/x:1", image("hello:2"));
    let pulled = ci.deploy(&blue(), &of_image("evil.test/x:1"), "k1").await.unwrap();
    fails(&pulled.id).await;
    // So it does if it is told not to take what is there.
    house.engine.add_to_registry("hello:2", image("hello:2"));
    let again = NewDeployment { rebuild: true, ..of_image("hello:2") };
    fails(&ci.deploy(&blue(), &again, "k2").await.unwrap().id).await;

    // The name was nobody's when it was asked for, and is moved while it waits.
    house.engine.add_to_registry("far:1", image("far:1"));
    house.engine.hold(Call::Pull);
    let before = house.deploy("far:1").await;
    let held = || async { (house.engine.waiting(Call::Pull) == 1).then_some(()) };
    until(SOON, "the queue is held up", held).await;
    house.engine.add_image("moving:1", image("hello:3"));
    let waits = ci.deploy(&blue(), &of_image("moving:1"), "k3").await.unwrap();
    house.engine.add_image("moving:1", image("hello:2"));
    house.client.cancel_deployment(&before).await.unwrap();
    fails(&waits.id).await;
    assert_eq!(house.client.releases(&blue(), 15).await.unwrap().releases.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_of_the_apps_that_it_was_sent_to() {
    let house = House::with_red().await;
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    let digest = house.sends(&house.client, &red(), "secret").await;
    house.runs(&house.client, &red(), &of_source(&digest)).await;
    // Who knows the digest, from a log say, learns and gets nothing by it.
    let nobodys: SourceDigest = "ab".repeat(32).parse().unwrap();
    for unknown in [&digest, &nobodys] {
        assert_eq!(ci.source(&blue(), unknown).await.unwrap(), None);
        let refused = refusal(ci.deploy(&blue(), &of_source(unknown), &house.key()).await);
        assert_eq!(refused.code, ErrorCode::NotFound);
        let said = format!("this app was not sent the source {}", unknown.short());
        assert_eq!(refused.message, said);
    }
    // Who has it may send it.
    assert_eq!(house.sends(&ci, &blue(), "secret").await, digest);
    assert!(ci.source(&blue(), &digest).await.unwrap().is_some());
    house.runs(&ci, &blue(), &of_source(&digest)).await;
    house.runs(&house.client, &red(), &of_source(&digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_app_is_not_there_whichever_way_it_is_asked_for() {
    let house = House::with_red().await;
    let theirs = house.client.deploy(&red(), &of_image("hello:3"), "their-key").await.unwrap();
    house.ends(&theirs.id, DeploymentStatus::Live).await;
    for scope in [Scope::Deploy, Scope::Read] {
        let thief = house.with_token("thief", scope, &["blue"]).await;
        let not_there =
            |what: &str, code: ErrorCode| assert_eq!(code, ErrorCode::NotFound, "{what}");
        not_there("app", refusal(thief.app(&red()).await).code);
        not_there("env", refusal(thief.env(&red()).await).code);
        not_there("metrics", refusal(thief.metrics(&red()).await).code);
        not_there("releases", refusal(thief.releases(&red(), 1).await).code);
        not_there("deployments", refusal(thief.deployments(&red()).await).code);
        not_there("a deployment", refusal(thief.deployment(&theirs.id).await).code);
        not_there(
            "cancel",
            match scope {
                Scope::Deploy => refusal(thief.cancel_deployment(&theirs.id).await).code,
                _ => ErrorCode::NotFound,
            },
        );
        for after in [0, 3] {
            let followed = thief.deployment_events(&theirs.id, after).next().await;
            not_there("events", refusal(followed).code);
        }
        let mut logs = thief.logs(&red(), LogQuery::default());
        not_there("logs", refusal(logs.next().await).code);
        let run = NewRun { command: vec!["/app".into()], detach: true, terminal: None };
        not_there("run", refusal(thief.run_detached(&red(), &run).await).code);
        let exec =
            NewExec { instance: "web.1".into(), command: vec!["/app".into()], terminal: None };
        not_there("exec", refusal(thief.exec(&red(), &exec).await.map(drop)).code);
        let set = EnvChange { vars: [("A".into(), Some("b".into()))].into(), stage: true };
        not_there("env set", refusal(thief.change_env(&red(), &set, "k").await).code);
        let back = refusal(thief.rollback(&red(), &Rollback::default(), "k").await);
        not_there("rollback", back.code);
        let volumes = thief.all_volumes().await.unwrap().volumes;
        assert!(volumes.iter().all(|v| v.app == blue()), "{volumes:?}");
        let certs = thief.certs().await.unwrap().certs;
        assert!(certs.iter().all(|c| c.app == Some(blue())), "{certs:?}");
    }
    // A key of others is no way to what it was used for: not of another app, and of the own one to no
    // more than may be read anyway.
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    let own = ci.deploy(&blue(), &of_image("hello:1"), "their-key").await.unwrap();
    assert_ne!(own.id, theirs.id);
    house.ends(&own.id, DeploymentStatus::Live).await;
    let second = house.with_token("ci-2", Scope::Deploy, &["blue"]).await;
    let new = NewDeployment { description: Some("mine".into()), ..of_image("hello:1") };
    let other = refusal(second.deploy(&blue(), &new, "their-key").await);
    assert_eq!(other.code, ErrorCode::IdempotencyConflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_opened_ends_with_it() {
    let house = House::with_blue().await;
    let new = |name: &str| NewToken { name: name.into(), ..NewToken::default() };
    let [revoked, rotated, kept] = [
        house.client.create_token(&new("revoked")).await.unwrap(),
        house.client.create_token(&new("rotated")).await.unwrap(),
        house.client.create_token(&new("kept")).await.unwrap(),
    ];
    let follow = |secret: &str| {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        house.at_door(secret).logs(&blue(), query)
    };
    let mut streams = [&revoked, &rotated, &kept].map(|made| follow(&made.secret));
    for stream in &mut streams {
        assert!(stream.next().await.unwrap().is_some(), "it is open");
    }
    house.client.revoke_token(&revoked.token.id).await.unwrap();
    house.client.rotate_token(&rotated.token.id, &Rotate::default()).await.unwrap();
    let [first, second, third] = &mut streams;
    for (stream, code) in [(first, ErrorCode::Unauthorized), (second, ErrorCode::TokenExpired)] {
        let end = tokio::time::timeout(SOON, async {
            loop {
                match stream.next().await {
                    Ok(Some(_)) => {}
                    end => break end,
                }
            }
        });
        assert_eq!(refusal(end.await.unwrap()).code, code);
    }
    house.client.stop(&blue()).await.unwrap();
    let stops = async {
        loop {
            let item = third.next().await.unwrap();
            if matches!(&item, Some(LogItem::Line(line)) if line.text == "Stopping") {
                break;
            }
            assert!(item.is_some(), "it goes on");
        }
    };
    tokio::time::timeout(SOON, stops).await.unwrap();
}
