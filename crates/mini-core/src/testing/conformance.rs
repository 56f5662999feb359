//! One suite for every back-end: what the ports promise, checked through the ports alone.
//!
//! The image it builds must hold one program that is the image's command, serves TCP on
//! `0.0.0.0:$PORT` (the image exposes 8080 alone), does not handle SIGTERM, and reads its words:
//! `loopback` serves on 127.0.0.1 instead; `exit CODE LINE…` prints the lines to stdout, each
//! `$NAME` replaced by that environment variable, and exits with the code; `copy` copies stdin to
//! stdout and tells stderr at its end how much that was (`3 bytes`); `size` answers each line of
//! stdin with its terminal's size (`24x80`, rows first) or `none`. It is called `/app`.
//!
//! Everything that a failing run leaves carries the server's label; the caller clears it away.

mod sessions;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::{until, within};
use crate::id::{DeploymentId, InstanceId};
use crate::name::AppName;
use crate::ports::{
    BuildSpec, Builder, Change, Instance, InstanceSpec, InstanceState, Items, Listening,
    NetworkSpec, Output, OutputStream, Progress, Runtime, RuntimeErrorKind as Kind, RuntimeResult,
    VolumeSpec,
};
use crate::release::{Limits, Mount};
use crate::subnet::{Subnet, next_subnet};

/// Longer than any engine needs for one step, shorter than anybody waits for a test.
const SOON: Duration = Duration::from_secs(60);
const GRACE_MS: u64 = 5_000;

/// What the suite is run with.
pub struct Fixture {
    /// The build's context: an uncompressed tar with a `Dockerfile` and the program.
    pub tar: Vec<u8>,
    /// Where the suite may take its subnets from.
    pub pool: Subnet,
    /// Makes ids and names that no other run on the engine has.
    pub seed: u32,
}

struct Suite {
    runtime: Arc<dyn Runtime>,
    builder: Arc<dyn Builder>,
    fixture: Fixture,
    app: AppName,
    subnet: Subnet,
    other_subnet: Subnet,
}

/// Runs every check.
///
/// # Panics
/// At the first promise that is not kept, naming it.
pub async fn run(runtime: Arc<dyn Runtime>, builder: Arc<dyn Builder>, fixture: Fixture) {
    let taken = runtime.subnets_in_use().await.expect("the engine's subnets");
    let (subnet, cursor) = next_subnet(fixture.pool, 0, &taken).expect("a free subnet");
    let (other_subnet, _) = next_subnet(fixture.pool, cursor, &taken).expect("another one");
    let app = format!("conform-{:x}", fixture.seed).parse().expect("an app's name");
    let suite = Suite { runtime, builder, fixture, app, subnet, other_subnet };
    suite.the_engine_says_who_it_is().await;
    suite.what_is_absent_is_known_to_be_absent().await;
    let image = suite.a_build_ends_with_an_image().await;
    suite.nothing_starts_without_a_network(&image).await;
    suite.a_network_is_made_once().await;
    suite.an_instance_lives_and_is_seen(&image).await;
    suite.an_address_has_one_holder(&image).await;
    suite.an_exit_is_seen_with_its_code_and_output(&image).await;
    suite.a_volume_outlives_its_instances(&image).await;
    suite.a_follower_ends_with_its_instance(&image).await;
    suite.a_command_is_executed(&image).await;
    suite.a_terminal_has_a_size(&image).await;
    suite.a_one_off_is_held_from_its_first_byte(&image).await;
    suite.a_dropped_one_off_runs_on_and_a_dropped_command_does_not(&image).await;
    suite.what_is_wrong_is_refused_and_leaves_nothing(&image).await;
    suite.loopback_is_told(&image).await;
    suite.an_image_goes_once_nothing_uses_it(&image).await;
    suite.the_network_goes().await;
    suite.a_pull_of_nothing_fails().await;
}

impl Suite {
    fn id(&self, name: &str) -> InstanceId {
        let hash = blake3::hash(format!("{}{name}", self.fixture.seed).as_bytes());
        InstanceId::from_random(hash.as_bytes())
    }

    /// A `web` instance at the `host`th address of the app's subnet.
    fn spec(&self, name: &str, image: &str, host: u32) -> InstanceSpec {
        let address = u32::from(self.subnet.gateway()) + host;
        InstanceSpec {
            id: self.id(name),
            app: self.app.clone(),
            rollout: self.deployment(),
            release: 7,
            process: "web".parse().expect("a process type"),
            ordinal: 1,
            image: image.to_owned(),
            command: None,
            env: vec![("PORT".into(), "8080".into()), ("MINI_TEST".into(), "yes = no".into())],
            address: address.into(),
            port: Some(8080),
            limits: Limits { memory_bytes: Some(64 << 20), cpu_millis: None, pids: Some(64) },
            alone: false,
            volumes: Vec::new(),
            one_off: None,
        }
    }

    fn deployment(&self) -> DeploymentId {
        format!("d{:x}", self.fixture.seed).parse().expect("a deployment's id")
    }

    async fn start(&self, spec: &InstanceSpec) -> Instance {
        self.runtime.start(spec.clone()).await.expect("start")
    }

    async fn see(&self, spec: &InstanceSpec) -> Option<Instance> {
        self.runtime.observe_one(spec.id.clone()).await.expect("observe_one")
    }

    async fn remove(&self, spec: &InstanceSpec) {
        self.runtime.remove(spec.id.clone()).await.expect("remove");
        assert_eq!(self.see(spec).await, None, "removed, and still there");
    }

    async fn exit(&self, spec: &InstanceSpec) -> InstanceState {
        until(SOON, "the instance exits", || async {
            let state = self.see(spec).await.expect("it was not removed").state;
            matches!(state, InstanceState::Exited { .. }).then_some(state)
        })
        .await
    }

    async fn the_engine_says_who_it_is(&self) {
        let info = self.runtime.info().await.expect("info");
        assert!(!info.version.is_empty() && !info.arch.is_empty(), "{info:?}");
        assert!(info.cpus > 0 && info.memory_bytes > 0, "{info:?}");
        assert!(info.root_dir.is_absolute(), "{info:?}");
    }

    async fn what_is_absent_is_known_to_be_absent(&self) {
        let id = self.id("absent");
        let runtime = &self.runtime;
        runtime.stop(id.clone(), GRACE_MS).await.expect("stop of an absent instance is done");
        runtime.remove(id.clone()).await.expect("remove of an absent instance is done");
        assert_eq!(runtime.observe_one(id.clone()).await, Ok(None));
        let kind = |result: RuntimeResult<()>| result.expect_err("it is absent").kind;
        assert_eq!(kind(runtime.start_again(id.clone()).await.map(drop)), Kind::NotFound);
        assert_eq!(kind(runtime.listening(id.clone()).await.map(drop)), Kind::NotFound);
        let output: Vec<_> = runtime.logs(id, None, false).collect().await;
        assert!(matches!(&output[..], [Err(error)] if error.kind == Kind::NotFound), "{output:?}");
        runtime.remove_network(self.app.clone()).await.expect("remove of an absent network");
        let absent = format!("sha256:{}", "0".repeat(64));
        assert_eq!(runtime.image(absent.clone()).await, Ok(None));
        runtime.remove_image(absent).await.expect("remove of an absent image is done");
    }

    async fn a_build_ends_with_an_image(&self) -> String {
        let tar = bytes::Bytes::from(self.fixture.tar.clone());
        let pieces: Vec<_> =
            tar.chunks(100_000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
        let spec = BuildSpec {
            app: self.app.clone(),
            deployment: self.deployment(),
            dockerfile: "Dockerfile".to_owned(),
            context: Box::pin(futures_util::stream::iter(pieces)),
            use_cache: true,
            secret: "known".to_owned(),
        };
        let steps: Vec<_> = within(SOON, "a build", self.builder.build(spec).collect()).await;
        let steps: Vec<Progress> = steps.into_iter().map(|step| step.expect("a build")).collect();
        assert!(steps.iter().any(|step| matches!(step, Progress::Line(_))), "it said nothing");
        let Some(Progress::Image(id)) = steps.last() else {
            panic!("the last item is not the image: {steps:?}");
        };
        let images = steps.iter().filter(|step| matches!(step, Progress::Image(_)));
        assert_eq!(images.count(), 1, "{steps:?}");
        let image = self.runtime.image(id.clone()).await.expect("image").expect("it was built");
        assert_eq!(image.id, *id);
        assert_eq!((image.ports.as_slice(), image.has_command), (&[8080][..], true));
        assert!(image.built, "whose it is is not known any more");
        let all = self.runtime.images().await.expect("images");
        assert!(all.contains(id), "{id} is not among {all:?}");
        id.clone()
    }

    async fn nothing_starts_without_a_network(&self, image: &str) {
        let spec = self.spec("homeless", image, 1);
        let error = self.runtime.start(spec.clone()).await.expect_err("there is no network");
        assert_eq!(error.kind, Kind::NotFound, "{error}");
        assert_eq!(self.see(&spec).await, None, "a failed start left something");
    }

    async fn a_network_is_made_once(&self) {
        let runtime = &self.runtime;
        let spec = NetworkSpec { app: self.app.clone(), subnet: self.subnet };
        for _ in 0..2 {
            runtime.ensure_network(spec.clone()).await.expect("ensure_network is idempotent");
        }
        let apps = runtime.networks().await.expect("networks");
        assert_eq!(apps.iter().filter(|app| **app == self.app).count(), 1, "{apps:?}");
        let subnets = runtime.subnets_in_use().await.expect("subnets_in_use");
        assert!(subnets.contains(&self.subnet), "{subnets:?}");
        let moved = NetworkSpec { subnet: self.other_subnet, ..spec.clone() };
        let error = runtime.ensure_network(moved).await.expect_err("it has another subnet");
        assert_eq!(error.kind, Kind::Conflict, "{error}");
        let app = format!("{}-b", self.app).parse().expect("an app's name");
        let error = runtime.ensure_network(NetworkSpec { app, ..spec }).await;
        let error = error.expect_err("the subnet is taken");
        assert_eq!(error.kind, Kind::Conflict, "{error}");
    }

    async fn an_instance_lives_and_is_seen(&self, image: &str) {
        let runtime = &self.runtime;
        let mut changes = runtime.changes();
        let first = within(SOON, "the first change", changes.next()).await;
        assert_eq!(first, Some(Change::Connected));
        let spec = self.spec("lives", image, 1);
        let instance = self.start(&spec).await;
        hears(&mut changes, &spec.id, "a start").await;
        assert!(instance.state.is_running(), "{instance:?}");
        assert_eq!(instance.label(), "web.1");
        assert_eq!((&instance.id, &instance.app), (&spec.id, &spec.app));
        assert_eq!((&instance.rollout, instance.release), (&spec.rollout, 7));
        assert_eq!((instance.address, instance.port), (Some(spec.address), Some(8080)));
        assert_eq!(self.start(&spec).await, instance, "start is idempotent by id");
        assert_eq!(self.see(&spec).await.as_ref(), Some(&instance));
        let all = runtime.observe().await.expect("observe");
        assert_eq!(all.iter().filter(|other| **other == instance).count(), 1, "{all:?}");
        let uses = runtime.stats(vec![spec.id.clone(), self.id("absent")]).await.expect("stats");
        assert_eq!(uses.keys().collect::<Vec<_>>(), [&spec.id]);
        let limit = spec.limits.memory_bytes.expect("a limit");
        assert!((1..=limit).contains(&uses[&spec.id].memory_bytes), "{uses:?}");
        let everywhere = Listening::At(vec![([0, 0, 0, 0], 8080).into()]);
        self.listens_at(&spec, everywhere).await;
        for _ in 0..2 {
            runtime.stop(spec.id.clone(), GRACE_MS).await.expect("stop is idempotent");
        }
        let stopped = self.exit(&spec).await;
        let by_signal = matches!(stopped, InstanceState::Exited { code: 143, oom: false, .. });
        assert!(by_signal, "SIGTERM did not reach it: {stopped:?}");
        let stopped = self.see(&spec).await.expect("stopped is not removed");
        assert_eq!(stopped.address, Some(spec.address), "a stopped one keeps its address");
        assert!(runtime.stats(vec![spec.id.clone()]).await.expect("stats").is_empty());
        let again = runtime.start_again(spec.id.clone()).await.expect("start_again");
        assert!(again.state.is_running(), "{again:?}");
        assert_eq!(again.address, Some(spec.address));
        let more =
            runtime.start_again(spec.id.clone()).await.expect("start_again of a running one");
        assert_eq!(more, again);
        // News comes in order: after another's start, only the removal is left to hear of.
        let marker = self.spec("marker", image, 9);
        self.start(&marker).await;
        hears(&mut changes, &marker.id, "a start").await;
        self.remove(&spec).await;
        hears(&mut changes, &spec.id, "a removal").await;
        self.remove(&marker).await;
        runtime.remove(spec.id).await.expect("remove is idempotent");
    }

    async fn listens_at(&self, spec: &InstanceSpec, expected: Listening) {
        until(SOON, "the instance listens", || async {
            let found = self.runtime.listening(spec.id.clone()).await.expect("listening");
            (found == expected).then_some(())
        })
        .await;
    }

    async fn an_address_has_one_holder(&self, image: &str) {
        let holder = self.spec("holder", image, 2);
        self.start(&holder).await;
        let late = self.spec("late", image, 2);
        let error = self.runtime.start(late.clone()).await.expect_err("the address is taken");
        assert_eq!(error.kind, Kind::Conflict, "{error}");
        assert_eq!(self.see(&late).await, None, "a failed start left something");
        self.remove(&holder).await;
        self.start(&late).await;
        self.remove(&late).await;
    }

    async fn an_exit_is_seen_with_its_code_and_output(&self, image: &str) {
        let mut changes = self.runtime.changes();
        assert_eq!(within(SOON, "the first change", changes.next()).await, Some(Change::Connected));
        let words = ["/app", "exit", "3", "one", "two $MINI_TEST"];
        let command = Some(words.map(str::to_owned).to_vec());
        let spec = InstanceSpec { command, ..self.spec("exits", image, 3) };
        self.start(&spec).await;
        let state = self.exit(&spec).await;
        assert!(matches!(state, InstanceState::Exited { code: 3, oom: false, .. }), "{state:?}");
        hears(&mut changes, &spec.id, "an exit").await;
        let known = self.start(&spec).await;
        assert_eq!(known.state, state, "start of what has run does not run it again");
        let all = self.output(&spec, None, false).await;
        assert_eq!(texts(&all), ["one", "two yes = no"]);
        assert!(all.iter().all(|line| line.stream == OutputStream::Stdout), "{all:?}");
        assert!(all[0].at_nanos <= all[1].at_nanos, "{all:?}");
        // At a timestamp is since that timestamp; after it is not.
        let (last, tail) = (all[1].at_nanos, &all[1..]);
        let same_moment = all[0].at_nanos == last;
        let since = self.output(&spec, Some(last), false).await;
        assert_eq!(since.as_slice(), if same_moment { &all[..] } else { tail });
        assert_eq!(self.output(&spec, Some(last + 1), false).await, []);
        assert_eq!(self.output(&spec, None, true).await, all, "following what has ended ends");
        self.remove(&spec).await;
    }

    async fn output(&self, spec: &InstanceSpec, since: Option<i64>, follow: bool) -> Vec<Output> {
        let lines = self.runtime.logs(spec.id.clone(), since, follow);
        let lines: Vec<_> = within(SOON, "the log ends", lines.collect()).await;
        lines.into_iter().map(|line| line.expect("a log")).collect()
    }

    async fn a_follower_ends_with_its_instance(&self, image: &str) {
        let spec = self.spec("followed", image, 4);
        self.start(&spec).await;
        let follow = self.output(&spec, None, true);
        let stop = self.runtime.stop(spec.id.clone(), GRACE_MS);
        let (_, stopped) = futures_util::future::join(follow, stop).await;
        stopped.expect("stop");
        self.remove(&spec).await;
    }

    async fn what_is_wrong_is_refused_and_leaves_nothing(&self, image: &str) {
        let absent = format!("sha256:{}", "0".repeat(64));
        let without = self.spec("no-image", &absent, 5);
        let error = self.runtime.start(without.clone()).await.expect_err("there is no image");
        assert_eq!(error.kind, Kind::NotFound, "{error}");
        let mut outside = self.spec("outside", image, 6);
        outside.address = self.other_subnet.gateway();
        let error = self.runtime.start(outside.clone()).await.expect_err("not in the subnet");
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(!error.message.contains('\n'), "{error}");
        for spec in [without, outside] {
            assert_eq!(self.see(&spec).await, None, "a failed start left something");
        }
    }

    async fn loopback_is_told(&self, image: &str) {
        let command = Some(vec!["/app".to_owned(), "loopback".to_owned()]);
        let spec = InstanceSpec { command, ..self.spec("loopback", image, 7) };
        self.start(&spec).await;
        self.listens_at(&spec, Listening::At(vec![([127, 0, 0, 1], 8080).into()])).await;
        self.remove(&spec).await;
    }

    async fn an_image_goes_once_nothing_uses_it(&self, image: &str) {
        let runtime = &self.runtime;
        let spec = self.spec("user", image, 8);
        self.start(&spec).await;
        let error = runtime.remove_image(image.to_owned()).await.expect_err("it is in use");
        assert_eq!(error.kind, Kind::Conflict, "{error}");
        self.remove(&spec).await;
        runtime.remove_image(image.to_owned()).await.expect("remove_image");
        assert_eq!(runtime.image(image.to_owned()).await, Ok(None));
        assert!(!runtime.images().await.expect("images").contains(&image.to_owned()));
    }

    /// What is in it is the end-to-end tests' matter: the suite's program writes nothing.
    async fn a_volume_outlives_its_instances(&self, image: &str) {
        let engine_name = format!("mini-conform-{:x}", self.fixture.seed);
        let mount = |engine_name: &str| Mount {
            volume: "data".parse().expect("a volume's name"),
            engine_name: engine_name.to_owned(),
            path: "/data".to_owned(),
            shared: false,
        };
        let missing = format!("{engine_name}-missing");
        let spec = InstanceSpec { volumes: vec![mount(&missing)], ..self.spec("novol", image, 6) };
        let error = within(SOON, "a start", self.runtime.start(spec)).await;
        assert_eq!(error.map_err(|e| e.kind).err(), Some(Kind::NotFound), "no such volume");

        let volume = VolumeSpec { app: self.app.clone(), engine_name: engine_name.clone() };
        for _ in 0..2 {
            let made = self.runtime.ensure_volume(volume.clone()).await;
            made.expect("ensure_volume is idempotent");
        }
        let all = self.runtime.volumes().await.expect("volumes");
        assert!(all.contains(&engine_name) && !all.contains(&missing), "{all:?}");
        let spec =
            InstanceSpec { volumes: vec![mount(&engine_name)], ..self.spec("vol", image, 6) };
        self.start(&spec).await;
        let used = self.runtime.remove_volume(engine_name.clone()).await;
        assert_eq!(used.map_err(|e| e.kind), Err(Kind::Conflict), "it is in use");
        self.remove(&spec).await;
        assert!(self.runtime.volumes().await.expect("volumes").contains(&engine_name));
        for _ in 0..2 {
            let removed = self.runtime.remove_volume(engine_name.clone()).await;
            removed.expect("remove_volume is idempotent");
        }
        assert!(!self.runtime.volumes().await.expect("volumes").contains(&engine_name));
    }

    async fn the_network_goes(&self) {
        for _ in 0..2 {
            let removed = self.runtime.remove_network(self.app.clone()).await;
            removed.expect("remove_network is idempotent");
        }
        assert!(!self.runtime.networks().await.expect("networks").contains(&self.app));
    }

    async fn a_pull_of_nothing_fails(&self) {
        // RFC 2606 keeps `.invalid` for names that are nobody's.
        let reference = "registry.invalid/nothing:1".to_owned();
        let steps: Vec<_> = within(SOON, "a pull", self.runtime.pull(reference).collect()).await;
        assert!(steps.last().is_some_and(Result::is_err), "{steps:?}");
    }
}

fn texts(lines: &[Output]) -> Vec<&str> {
    lines.iter().map(|line| std::str::from_utf8(&line.text).expect("text")).collect()
}

/// Waits for news of the instance.
async fn hears(changes: &mut Items<Change>, id: &InstanceId, what: &str) {
    let expected = Change::Instance(id.clone());
    let heard = async {
        while let Some(change) = changes.next().await {
            assert!(!matches!(change, Change::Lost(_)), "the stream broke: {change:?}");
            if change == expected {
                return;
            }
        }
        panic!("the stream of changes ended");
    };
    within(SOON, what, heard).await;
}
