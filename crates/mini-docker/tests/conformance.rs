//! The ports' promises, kept by the fake and by a real engine alike; and what only a real engine
//! can show. Needs a Docker Engine and no registry.

#![expect(clippy::unwrap_used, reason = "a test may fail by it, outside of #[test] too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mini_core::id::InstanceId;
use mini_core::name::AppName;
use mini_core::ports::{
    BuildSpec, Builder, Change, InstanceSpec, InstanceState, NetworkSpec, Output, OutputStream,
    Progress, Runtime, RuntimeErrorKind, RuntimeResult,
};
use mini_core::release::Limits;
use mini_core::subnet::{Subnet, next_subnet};
use mini_core::testing::conformance::{self, Fixture};
use mini_core::testing::{FakeRuntime, until};
use mini_docker::Docker;
use support::detour::Detour;
use support::{DOCKERFILE, Engine, build_spec, connect, context, on_engine};

/// Longer than any engine needs for one step.
const SOON: Duration = Duration::from_secs(60);

fn fixture(seed: u32) -> Fixture {
    let pool = "10.254.0.0/16".parse().unwrap();
    Fixture { tar: context(DOCKERFILE), pool, seed }
}

#[tokio::test]
async fn the_fake_keeps_the_ports_promises() {
    let fake = FakeRuntime::new();
    conformance::run(Arc::new(fake.clone()), Arc::new(fake.clone()), fixture(1)).await;
    assert_eq!(fake.instances(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_keeps_the_ports_promises() {
    on_engine(|engine| async move {
        let docker = Arc::new(engine.docker.clone());
        conformance::run(docker.clone(), docker, fixture(engine.seed)).await;
    })
    .await;
}

// ---- What only a real engine can show ----

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_fenced_in() {
    on_engine(|engine| async move {
        let app = App::new(&engine).await;
        let eats = app.start("eats", 1, &["/app", "eat"], 16 << 20).await;
        // The engine hears of the end and of its reason in two messages, in any order.
        until(SOON, "it is out of memory", || async {
            let state = app.exit(&eats).await;
            assert!(matches!(state, InstanceState::Exited { code: 137, .. }), "{state:?}");
            matches!(state, InstanceState::Exited { oom: true, .. }).then_some(())
        })
        .await;

        let words = ["/app", "cat", "/proc/self/status", "/proc/sys/kernel/hostname"];
        let told = app.output(&app.start("told", 2, &words, 64 << 20).await).await;
        let has = |line: &str| assert!(told.iter().any(|told| told == line), "{line}: {told:?}");
        // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10.
        has("CapBnd:\t00000000000004eb");
        has("NoNewPrivs:\t1");
        has("tried-web-1");
        let found = engine.api.inspect_container(&app.container(&eats).await, None).await.unwrap();
        let host = found.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(16 << 20), Some(16 << 20)));
        assert_eq!((host.pids_limit, host.cpu_shares), (Some(512), Some(1024)));
        assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "no");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_back_in_lines_however_long_and_however_many() {
    on_engine(|engine| async move {
        let app = App::new(&engine).await;
        let long = app.start("long", 1, &["/app", "long", "45000"], 64 << 20).await;
        app.exit(&long).await;
        let lines: Vec<Output> =
            engine.docker.logs(long, None, false).map(Result::unwrap).collect().await;
        let of = |stream| lines.iter().filter(move |line| line.stream == stream);
        let lengths: Vec<usize> = of(OutputStream::Stdout).map(|line| line.text.len()).collect();
        assert_eq!(lengths, [10_000, 10_000, 10_000, 10_000, 5_000]);
        let tail: Vec<&[u8]> = of(OutputStream::Stderr).map(|line| &line.text[..]).collect();
        assert_eq!(tail, [b"tail without an end"]);

        let many = app.start("many", 2, &["/app", "count", "20000"], 64 << 20).await;
        let lines = app.output(&many).await;
        assert_eq!(lines.len(), 20_000);
        assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {at}")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_in_the_image_leaves_no_riddle() {
    on_engine(|engine| async move {
        let app = App::new(&engine).await;
        let spec = app.spec("missing", 1, &["/not-there"], 64 << 20);
        match engine.docker.start(spec.clone()).await {
            Err(error) => {
                assert_eq!(error.kind, RuntimeErrorKind::Invalid, "{error}");
                assert!(error.message.contains("\"/not-there\" was not found"), "{error}");
                assert_eq!(engine.docker.observe_one(spec.id).await, Ok(None));
            }
            // With an init process the engine finds out only once that runs.
            Ok(_) => {
                let state = app.exit(&spec.id).await;
                assert!(matches!(state, InstanceState::Exited { code: 127, .. }), "{state:?}");
                let told = app.output(&spec.id).await.join("\n");
                assert!(told.contains("/not-there"), "{told}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_what_failed() {
    on_engine(|engine| async move {
        let detour = Detour::new().await;
        detour.refuse_sessions();
        let old = connect(&engine.server, Some(detour.host()));
        assert!(!old.info().await.unwrap().buildkit);
        assert!(engine.docker.info().await.unwrap().buildkit);
        let base = "FROM scratch\nCOPY app /app\n";
        let cases = [
            ("run", format!("{base}RUN [\"/app\", \"exit\", \"4\", \"told\"]\n"), "exit code 4"),
            ("copy", "FROM scratch\nCOPY nope /\n".into(), "nope is not in the source"),
            ("word", format!("{base}FRUN x\n"), "nknown instruction: FRUN"),
            ("base", "FROM registry.invalid/none:7\n".into(), "registry.invalid/none:7 is not to be had: the registry of registry.invalid/none:7 could not be reached"),
        ];
        for (docker, builder) in [(&engine.docker, "BuildKit"), (&old, "classic")] {
            for (name, dockerfile, expected) in &cases {
                let spec = build_spec(name, dockerfile);
                let items: Vec<_> = docker.build(spec).collect().await;
                let Some(Err(error)) = items.last() else { panic!("{builder} {name}: {items:?}") };
                assert_eq!(error.kind, RuntimeErrorKind::Failed, "{builder} {name}: {error}");
                assert!(error.message.contains(expected), "{builder} {name}: {error}");
                let told = items.iter().filter(|item| {
                    matches!(item, Ok(Progress::Line(line)) if line.ends_with("told"))
                });
                assert_eq!(told.count(), usize::from(*name == "run"), "{builder}: {items:?}");
            }
            let mut spec = build_spec("none", base);
            spec.dockerfile = "Otherfile".to_owned();
            let items: Vec<_> = docker.build(spec).collect().await;
            let Some(Err(error)) = items.last() else { panic!("{builder}: {items:?}") };
            assert_eq!(error.message, "the source has no such Dockerfile", "{builder}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_buildkit_builds_too() {
    on_engine(|engine| async move {
        let detour = Detour::new().await;
        detour.refuse_sessions();
        let old = connect(&engine.server, Some(detour.host()));
        let items: Vec<_> = old.build(build_spec("old", DOCKERFILE)).collect().await;
        assert!(matches!(items.last(), Some(Ok(Progress::Image(_)))), "{items:?}");
        let step = |item: &&RuntimeResult<Progress>| {
            matches!(item, Ok(Progress::Line(line)) if line.ends_with(" : COPY app /app"))
        };
        assert!(items.iter().any(|item| step(&item)), "{items:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_not_to_be_had_stops_no_build() {
    on_engine(|engine| async move {
        let dockerfile = format!("# syntax=registry.invalid/frontend:1\n{DOCKERFILE}");
        let items = engine.build("syntax", &dockerfile).await;
        assert!(matches!(items.last(), Some(Ok(Progress::Image(_)))), "{items:?}");
        let told = "# syntax=registry.invalid/frontend:1 is not to be had here";
        assert!(
            matches!(&items[0], Ok(Progress::Line(line)) if line.starts_with(told)),
            "{items:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_build_ends_it_on_the_engine() {
    on_engine(|engine| async move {
        let mark = format!("mark-{:x}", engine.seed);
        let dockerfile = format!("FROM scratch\nCOPY app /app\nRUN [\"/app\", \"{mark}\"]\n");
        let mut build = engine.docker.build(build_spec("hangs", &dockerfile));
        loop {
            match build.next().await {
                Some(Ok(Progress::Line(line))) if line.ends_with("ready") => break,
                Some(Ok(_)) => {}
                other => panic!("it ended: {other:?}"),
            }
        }
        assert!(runs(&mark), "the build's process is not to be seen from here");
        drop(build);
        until(SOON, "the build's process ends", || async { (!runs(&mark)).then_some(()) }).await;
    })
    .await;
}

/// Whether any process on this machine has `mark` among its words.
fn runs(mark: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let words = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let mut words = words.map(|words| String::from_utf8_lossy(&words).into_owned());
    words.any(|words| words.split('\0').any(|word| word == mark))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_leaves_its_layers_in_the_cache_and_not_its_source() {
    on_engine(|engine| async move {
        let mark = format!("mark-{:x}", engine.seed);
        let dockerfile = format!("{DOCKERFILE}RUN [\"/app\", \"exit\", \"0\", \"{mark}\"]\n");
        let begun = jiff::Timestamp::now();
        engine.build("first", &dockerfile).await;
        let ended = jiff::Timestamp::now();
        until(SOON, "the source leaves the cache", || async {
            (engine.contexts_in_cache(begun, ended).await == 0).then_some(())
        })
        .await;
        let again = engine.build("second", &dockerfile).await;
        let has = |end: &str| {
            let line = |item: &RuntimeResult<Progress>| {
                matches!(item, Ok(Progress::Line(line)) if line.ends_with(end))
            };
            again.iter().filter(|item| line(item)).count()
        };
        // The first step's COPY and the second's RUN.
        assert!(has("CACHED") >= 2 && has(&mark) == 0, "{again:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_somebody_else_is_left_alone() {
    on_engine(|engine| async move {
        let ours = engine.image().await;
        // Built from ours, it inherits our labels, and is not ours.
        let tag = format!("mini-tried-{}:1", engine.server);
        let theirs = engine.build_foreign(&tag, &ours).await;
        let error = engine.docker.remove_image(theirs.clone()).await.unwrap_err();
        assert_eq!(error.kind, RuntimeErrorKind::Invalid, "{error}");
        assert_eq!(engine.docker.images().await.unwrap(), [ours]);
        assert!(engine.docker.image(tag).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_reaches_neither_images_nor_caches_of_another_app() {
    on_engine(|engine| async move {
        let detour = Detour::new().await;
        detour.refuse_sessions();
        let classic = connect(&engine.server, Some(detour.host()));
        let build = async |docker: &Docker, name: &str, secret: &str, dockerfile: &str| {
            let spec = BuildSpec { secret: secret.to_owned(), ..build_spec(name, dockerfile) };
            docker.build(spec).collect::<Vec<_>>().await
        };
        // One app has something to hide, and whatever is told of its builds names no image.
        let prefix = format!("mini-{}/tried", &engine.server.as_str()[..4]);
        for (docker, name) in [(&engine.docker, "red"), (&classic, "red-classic")] {
            let items = build(docker, name, "unknown", DOCKERFILE).await;
            let Some(Ok(Progress::Image(id))) = items.last() else { panic!("{items:?}") };
            let found = engine.docker.image(id.clone()).await.unwrap().unwrap();
            assert!(found.built);
            let tag = format!("{prefix}:d-{name}-unknown");
            assert_eq!(engine.docker.image(tag).await.unwrap().unwrap().id, *id);
            assert!(!format!("{items:?}").contains("unknown"), "{items:?}");
        }
        // Who knows the app and the deployment does not know the image.
        for dockerfile in [
            format!("FROM {prefix}:d-red\n"),
            format!("FROM scratch\nCOPY --from={prefix}:d-red /app /app\n"),
        ] {
            let items = build(&engine.docker, "blue", "known", &dockerfile).await;
            assert!(matches!(items.last(), Some(Err(_))), "{items:?}");
        }
        // Nor is anything pulled in the place of an image of ours.
        let pulled: Vec<_> = engine.docker.pull(format!("{prefix}:d-red")).collect().await;
        let Some(Err(error)) = pulled.last() else { panic!("{pulled:?}") };
        assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");

        // A cache of steps is an app's own. (With --no-cache it would be everybody's new one.)
        let step = |word: &str| {
            let mount = format!("--mount=type=cache,id=tried-{},target=/cache", engine.seed);
            format!(
                "FROM scratch\nCOPY app /app\nRUN {mount} [\"/app\", \"{word}\", \"/cache/x\"]\n"
            )
        };
        for (name, secret, word) in
            [("one", "unknown", "write"), ("two", "known", "absent"), ("three", "unknown", "cat")]
        {
            let items = build(&engine.docker, name, secret, &step(word)).await;
            assert!(matches!(items.last(), Some(Ok(Progress::Image(_)))), "{name}: {items:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_is_told_and_found_again() {
    on_engine(|engine| async move {
        let detour = Detour::new().await;
        let docker = connect(&engine.server, Some(detour.host()));
        let app = App::new(&engine).await;
        let mut changes = docker.changes();
        assert_eq!(changes.next().await, Some(Change::Connected));
        detour.cut();
        assert!(matches!(changes.next().await, Some(Change::Lost(_))));
        assert_eq!(changes.next().await, Some(Change::Connected));
        let id = app.start("after", 1, &["/app"], 64 << 20).await;
        assert_eq!(changes.next().await, Some(Change::Instance(id)));

        let nowhere = connect(&engine.server, Some("unix:///nonexistent/docker.sock".to_owned()));
        let error = nowhere.info().await.unwrap_err();
        assert_eq!(error.kind, RuntimeErrorKind::Unreachable);
        assert!(error.hint.unwrap().contains("is Docker running?"));
        let mut changes = nowhere.changes();
        assert!(matches!(changes.next().await, Some(Change::Lost(_))));
    })
    .await;
}

/// An app with a network and an image, to start instances of.
struct App {
    engine: Engine,
    name: AppName,
    image: String,
    subnet: Subnet,
}

impl App {
    async fn new(engine: &Engine) -> App {
        let image = engine.image().await;
        let name: AppName = "tried".parse().unwrap();
        // Other tests on this engine take subnets too: ask again until one is ours.
        let mut cursor = engine.seed % 1000;
        let subnet = until(SOON, "a free subnet", || {
            let taken = engine.docker.subnets_in_use();
            let next = cursor;
            cursor = (cursor + 1) % 1000;
            let app = name.clone();
            async move {
                let pool = "10.253.0.0/16".parse().unwrap();
                let (subnet, _) = next_subnet(pool, next, &taken.await.unwrap()).unwrap();
                let made = engine.docker.ensure_network(NetworkSpec { app, subnet }).await;
                made.ok().map(|()| subnet)
            }
        })
        .await;
        App { engine: engine.clone(), name, image, subnet }
    }

    fn spec(&self, id: &str, host: u32, words: &[&str], memory: u64) -> InstanceSpec {
        InstanceSpec {
            id: id.parse().unwrap(),
            app: self.name.clone(),
            rollout: "d1".parse().unwrap(),
            release: 1,
            process: "web".parse().unwrap(),
            ordinal: 1,
            image: self.image.clone(),
            command: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            env: vec![("PORT".into(), "8080".into())],
            address: (u32::from(self.subnet.gateway()) + host).into(),
            port: Some(8080),
            limits: Limits { memory_bytes: Some(memory), cpu_millis: None, pids: None },
            alone: false,
            volumes: Vec::new(),
            one_off: None,
        }
    }

    async fn start(&self, id: &str, host: u32, words: &[&str], memory: u64) -> InstanceId {
        let spec = self.spec(id, host, words, memory);
        self.engine.docker.start(spec).await.unwrap().id
    }

    async fn exit(&self, id: &InstanceId) -> InstanceState {
        until(SOON, "the instance exits", || async {
            let found = self.engine.docker.observe_one(id.clone()).await.unwrap();
            let state = found.expect("it is there").state;
            matches!(state, InstanceState::Exited { .. }).then_some(state)
        })
        .await
    }

    /// What it wrote until it exited.
    async fn output(&self, id: &InstanceId) -> Vec<String> {
        self.exit(id).await;
        let lines = self.engine.docker.logs(id.clone(), None, false);
        lines.map(|line| String::from_utf8(line.unwrap().text).unwrap()).collect().await
    }

    async fn container(&self, id: &InstanceId) -> String {
        format!("mini-{}-tried-web.1-{id}", &self.engine.server.as_str()[..4])
    }
}
