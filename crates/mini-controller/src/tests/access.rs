//! Who may do what, through the typed client and a door with tokens.

use mini_api::client::{AuditQuery, ClientError};
use mini_api::{
    Audit, EnvChange, ErrorBody, ErrorCode, NewToken, NewVolume, Rollback, Rotate, Scope,
};

use super::*;

impl House {
    /// A client at the proxy's end of the door, with a new token.
    pub(super) async fn with_token(&self, name: &str, scope: Scope, apps: &[&str]) -> Client {
        let apps = apps.iter().map(|app| app.parse().unwrap()).collect();
        let new = NewToken { name: name.into(), scope, apps, expires_in_seconds: None };
        self.at_door(&self.client.create_token(&new).await.unwrap().secret)
    }

    pub(super) fn at_door(&self, secret: &str) -> Client {
        Client::new(Endpoint::Unix(self.folder.path().join("api.sock")), Some(secret.to_owned()))
    }

    /// Whose the folder, and so this process, is.
    fn uid(&self) -> u32 {
        use std::os::unix::fs::MetadataExt;
        self.folder.path().metadata().unwrap().uid()
    }

    pub(super) async fn trail(&self) -> Audit {
        self.client.audit(&AuditQuery::default()).await.unwrap()
    }
}

pub(super) fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> ErrorBody {
    match answer {
        Err(ClientError::Api(body, _)) => *body,
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_token_deploys_its_app_and_nothing_else() {
    let house = House::with_blue().await;
    house.create("red").await;
    let set = EnvChange { vars: [("KEY".into(), Some("hush".into()))].into(), stage: true };
    house.client.change_env(&blue(), &set, "k0").await.unwrap();
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    let red: AppName = "red".parse().unwrap();

    // Its own app: deployed, followed, rolled back, read.
    let new = NewDeployment { image: Some("hello:2".into()), ..NewDeployment::default() };
    let made = ci.deploy(&blue(), &new, "k1").await.unwrap();
    assert_eq!(made.created_by.as_deref(), Some("ci"));
    let done = house.ends(&made.id, DeploymentStatus::Live).await;
    assert_eq!(ci.deployment(&done.id).await.unwrap().status, DeploymentStatus::Live);
    let env = ci.env(&blue()).await.unwrap();
    assert_eq!((env.vars["KEY"].as_str(), env.values_hidden), ("", true));
    let env = house.client.env(&blue()).await.unwrap();
    assert_eq!((env.vars["KEY"].as_str(), env.values_hidden), ("hush", false));
    let back = ci.rollback(&blue(), &Rollback::default(), "k2").await.unwrap();
    house.ends(&back.id, DeploymentStatus::Live).await;
    assert_eq!(
        ci.releases(&blue(), 15).await.unwrap().releases[0].created_by.as_deref(),
        Some("ci")
    );

    // Its own app, but more than deploying.
    let refused = refusal(ci.destroy_app(&blue(), false).await);
    assert_eq!(refused.code, ErrorCode::OutOfScope);
    assert_eq!(
        refused.message,
        "the token \"ci\" may deploy and read blue; this asked for apps.destroy of blue"
    );
    assert!(refused.hint.unwrap().contains("--scope admin"));
    let out = ErrorCode::OutOfScope;
    assert_eq!(refusal(ci.change_env(&blue(), &set, "k3").await).code, out);
    assert_eq!(refusal(ci.tokens().await).code, out);
    assert_eq!(refusal(ci.audit(&AuditQuery::default()).await).code, out);
    assert_eq!(refusal(ci.create_app(&NewApp { name: Some("green".into()) }).await).code, out);
    let admin = NewToken { name: "mine".into(), ..NewToken::default() };
    assert_eq!(refusal(ci.create_token(&admin).await).code, out);

    // Others are not there: neither alone, nor in lists, nor by their deployments.
    let real = refusal(ci.app(&"none".parse().unwrap()).await);
    let hidden = refusal(ci.app(&red).await);
    assert_eq!(hidden.message.replace("red", "none"), real.message);
    assert_eq!((hidden.code, hidden.hint), (ErrorCode::NotFound, real.hint));
    assert_eq!(refusal(ci.deploy(&red, &new, "k4").await).code, ErrorCode::NotFound);
    assert_eq!(refusal(ci.destroy_app(&red, true).await).code, ErrorCode::NotFound);
    let theirs = house.client.deploy(&red, &new, "k5").await.unwrap();
    house.ends(&theirs.id, DeploymentStatus::Live).await;
    assert_eq!(refusal(ci.deployment(&theirs.id).await).code, ErrorCode::NotFound);
    assert_eq!(refusal(ci.cancel_deployment(&theirs.id).await).code, ErrorCode::NotFound);
    let names = |apps: mini_api::Apps| -> Vec<String> {
        apps.apps.iter().map(|app| app.name.to_string()).collect()
    };
    assert_eq!(names(ci.apps().await.unwrap()), ["blue"]);
    for app in ["blue", "red"] {
        let new = NewVolume {
            name: "data".parse().unwrap(),
            path: "/data".into(),
            shared: false,
            left_by: None,
        };
        house.client.add_volume(&app.parse().unwrap(), &new, app).await.unwrap();
    }
    let volumes = ci.all_volumes().await.unwrap().volumes;
    assert!(volumes.iter().all(|v| v.app == blue()) && volumes.len() == 1, "{volumes:?}");

    // Its app goes, and a new one of that name is another app.
    house.client.destroy_app(&blue(), true).await.unwrap();
    until(SOON, "blue is gone", || async { house.client.app(&blue()).await.err() }).await;
    house.create("blue").await;
    assert_eq!(refusal(ci.app(&blue()).await).code, ErrorCode::NotFound);
    assert_eq!(names(ci.apps().await.unwrap()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_token_reads_all_or_what_it_is_for_and_changes_nothing() {
    let house = House::with_blue().await;
    house.create("red").await;
    let all = house.with_token("wall", Scope::Read, &[]).await;
    let one = house.with_token("red-only", Scope::Read, &["red"]).await;
    assert_eq!(all.apps().await.unwrap().apps.len(), 2);
    assert_eq!(one.apps().await.unwrap().apps.len(), 1);
    assert!(all.env(&blue()).await.unwrap().values_hidden);
    all.metrics(&blue()).await.unwrap();
    assert_eq!(all.server().await.unwrap().token.as_deref(), Some("wall"));
    assert_eq!(refusal(one.app(&blue()).await).code, ErrorCode::NotFound);
    let new = NewDeployment { image: Some("hello:2".into()), ..NewDeployment::default() };
    let refused = refusal(all.deploy(&blue(), &new, "k1").await);
    assert_eq!(refused.code, ErrorCode::OutOfScope);
    assert!(refused.message.contains("may read all apps, and change nothing"), "{refused}");
    assert_eq!(refusal(all.stop(&blue()).await).code, ErrorCode::OutOfScope);
    let nowhere = NewToken {
        name: "x".into(),
        scope: Scope::Deploy,
        apps: vec!["green".parse().unwrap()],
        expires_in_seconds: None,
    };
    assert_eq!(refusal(house.client.create_token(&nowhere).await).code, ErrorCode::NotFound);
    let unbound = NewToken { apps: Vec::new(), ..nowhere };
    let refused = refusal(house.client.create_token(&unbound).await);
    assert!(refused.message.contains("for one app or more"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires_and_is_rotated() {
    let house = House::new().await;
    let new = NewToken { name: "ci".into(), expires_in_seconds: Some(1), ..NewToken::default() };
    let made = house.client.create_token(&new).await.unwrap();
    let old = house.at_door(&made.secret);
    let refused = until(SOON, "it expires", || async { old.apps().await.err() }).await;
    let refused = refusal::<()>(Err(refused));
    assert_eq!(refused.code, ErrorCode::TokenExpired);
    assert!(refused.message.contains("the token \"ci\" expired 2"), "{refused}");
    assert!(refused.hint.unwrap().contains("mini tokens rotate ci"));
    // Rotated, with a longer life: the old secret stays dead, for an overlap too.
    let id = made.token.id;
    let how = Rotate { overlap_seconds: 3600, expires_in_seconds: Some(3600) };
    let first = house.client.rotate_token(&id, &how).await.unwrap();
    assert_eq!(first.token.id, id);
    assert_eq!(refusal(old.apps().await).code, ErrorCode::TokenExpired);
    house.at_door(&first.secret).apps().await.unwrap();
    // Again: now the one before works on, until it is told not to.
    let how = Rotate { overlap_seconds: 3600, ..Rotate::default() };
    let second = house.client.rotate_token(&id, &how).await.unwrap();
    let life = second.token.expires_at.unwrap().duration_since(second.token.rotated_at.unwrap());
    assert_eq!(life.as_secs(), 3600, "as long as it was made for");
    for secret in [&first.secret, &second.secret] {
        house.at_door(secret).apps().await.unwrap();
    }
    assert!(second.token.old_secret_until.is_some());
    let third = house.client.rotate_token(&id, &Rotate::default()).await.unwrap();
    for secret in [&first.secret, &second.secret] {
        let refused = refusal(house.at_door(secret).apps().await);
        assert_eq!(refused.code, ErrorCode::TokenExpired);
        assert!(refused.message.contains("has another secret by now"), "{refused}");
    }
    house.at_door(&third.secret).apps().await.unwrap();
    house.client.revoke_token(&id).await.unwrap();
    assert_eq!(refusal(house.at_door(&third.secret).apps().await).code, ErrorCode::Unauthorized);
    assert_eq!(
        refusal(house.client.rotate_token(&id, &Rotate::default()).await).code,
        ErrorCode::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_without_a_controller_is_in_the_trail_too() {
    let mut house = House::unstarted();
    let folder = DataFolder::open(house.folder.path()).await.unwrap();
    let new = NewToken { name: "lonely".into(), ..NewToken::default() };
    let secret = folder.create_token(&new).await.unwrap();
    drop(folder);
    house.start().await;
    house.at_door(&secret).apps().await.unwrap();
    let trail = house.trail().await.entries;
    let [entry] = &trail[..] else { panic!("{trail:?}") };
    let actor = format!("data folder (uid {})", house.uid());
    assert_eq!((entry.actor.as_deref(), entry.status), (Some(actor.as_str()), 201));
    assert_eq!(entry.action, "tokens.create");
    assert!(entry.target.as_ref().unwrap().ends_with(" lonely"), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_names_who_changed_what_and_who_was_refused() {
    let house = House::with_blue().await;
    let ci = house.with_token("ci", Scope::Deploy, &["blue"]).await;
    let secret = "correct-horse-battery";
    let set = EnvChange { vars: [("PASSWORD".into(), Some(secret.into()))].into(), stage: true };
    house.client.change_env(&blue(), &set, "k0").await.unwrap();
    let new = NewDeployment { image: Some("hello:2".into()), ..NewDeployment::default() };
    let made = ci.deploy(&blue(), &new, "k1").await.unwrap();
    house.ends(&made.id, DeploymentStatus::Live).await;
    refusal(ci.destroy_app(&blue(), false).await);
    refusal(ci.cancel_deployment(&made.id).await);
    refusal(house.at_door("mini_guess").apps().await);
    ci.apps().await.unwrap();
    let admin = format!("admin socket (uid {})", house.uid());
    let wanted = [
        (Some(admin.as_str()), "apps.create", Some("blue"), 201),
        (Some(&admin), "deployments.create", Some("blue"), 202),
        (Some(&admin), "tokens.create", None, 201),
        (Some(&admin), "env.change", Some("blue"), 200),
        (Some("ci"), "deployments.create", Some("blue"), 202),
        (Some("ci"), "apps.destroy", Some("blue"), 403),
        (Some("ci"), "deployments.cancel", None, 409),
        (None, "apps.list", None, 401),
    ];
    let trail = until(SOON, "the refusals are written", || async {
        let trail = house.trail().await;
        (trail.entries.len() >= wanted.len()).then_some(trail)
    })
    .await;
    let mut found: Vec<_> = trail
        .entries
        .iter()
        .map(|e| (e.actor.as_deref(), e.action.as_str(), e.app.as_deref(), e.status))
        .collect();
    // A refusal is written beside the answer, so it may stand a place later.
    let mut wanted = wanted.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert!(trail.entries.iter().all(|e| !e.request_id.is_empty()), "{trail:?}");
    let text = format!("{trail:?}");
    assert!(!text.contains(secret) && !text.contains("mini_guess"), "{text}");
    assert!(text.contains(made.id.as_str()), "what was to be cancelled: {text}");
    let none = AuditQuery { app: Some("red".parse().unwrap()), ..AuditQuery::default() };
    assert_eq!(house.client.audit(&none).await.unwrap().entries, []);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
    let later = AuditQuery { since: Some(later), ..AuditQuery::default() };
    assert_eq!(house.client.audit(&later).await.unwrap().entries, []);
    let two = AuditQuery { n: Some(2), ..AuditQuery::default() };
    assert_eq!(house.client.audit(&two).await.unwrap().entries, trail.entries[..2]);
}
