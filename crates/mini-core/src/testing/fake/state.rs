//! What the fake engine holds, and how it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Waker};

use super::{Behaviour, Built, Call, Effect};
use crate::id::InstanceId;
use crate::name::AppName;
use crate::ports::{
    Change, EngineInfo, ImageInfo, Instance, InstanceSpec, InstanceState, Listening, NetworkSpec,
    Output, OutputStream, RuntimeError, RuntimeErrorKind as Kind, RuntimeResult, Stats,
};
use crate::subnet::Subnet;
use crate::time::Millis;

pub(super) struct State {
    pub(super) now: Millis,
    pub(super) info: EngineInfo,
    pub(super) unreachable: bool,
    pub(super) failures: HashMap<Call, VecDeque<(RuntimeError, Effect)>>,
    pub(super) held: HashSet<Call>,
    pub(super) waiting: HashMap<Call, usize>,
    pub(super) counts: HashMap<Call, usize>,
    pub(super) wakers: Vec<Waker>,
    pub(super) instances: BTreeMap<InstanceId, Container>,
    pub(super) networks: BTreeMap<AppName, Subnet>,
    pub(super) foreign_networks: Vec<Subnet>,
    /// By the engine's names.
    pub(super) volumes: BTreeSet<String>,
    pub(super) behaviours: HashMap<String, Behaviour>,
    pub(super) execs: HashMap<String, Behaviour>,
    pub(super) execs_running: usize,
    /// Where executed commands listen.
    pub(super) exec_listeners: Vec<(InstanceId, SocketAddr)>,
    pub(super) listening: HashMap<InstanceId, Listening>,
    pub(super) stats: HashMap<InstanceId, Stats>,
    /// By id.
    pub(super) images: BTreeMap<String, Image>,
    pub(super) registry: BTreeMap<String, ImageInfo>,
    pub(super) build_lines: Vec<String>,
    pub(super) build_image: ImageInfo,
    pub(super) builds: Vec<Built>,
    /// What each stream of changes has yet to say; `None` once it was dropped.
    pub(super) subscribers: Vec<Option<VecDeque<Change>>>,
    /// Makes every timestamp of output its own.
    written: i64,
}

pub(super) struct Container {
    pub(super) spec: InstanceSpec,
    pub(super) state: InstanceState,
    pub(super) output: Vec<Output>,
}

pub(super) struct Image {
    pub(super) info: ImageInfo,
    pub(super) references: BTreeSet<String>,
    pub(super) built_here: bool,
}

impl Default for State {
    fn default() -> Self {
        let image = ImageInfo {
            id: String::new(),
            ports: vec![8080],
            has_command: true,
            check: None,
            volumes: Vec::new(),
            size_bytes: 1_000_000,
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            built: true,
        };
        Self {
            now: Millis(1_000_000_000_000),
            info: EngineInfo {
                version: "0.0.0-fake".to_owned(),
                api_version: "1.41".to_owned(),
                os: "Fake Linux".to_owned(),
                arch: "x86_64".to_owned(),
                cpus: 2,
                memory_bytes: 4 << 30,
                root_dir: PathBuf::from("/var/lib/docker"),
                storage_driver: "overlay2".to_owned(),
                cgroup_version: "2".to_owned(),
                live_restore: false,
                buildkit: true,
            },
            unreachable: false,
            failures: HashMap::new(),
            held: HashSet::new(),
            waiting: HashMap::new(),
            counts: HashMap::new(),
            wakers: Vec::new(),
            instances: BTreeMap::new(),
            networks: BTreeMap::new(),
            foreign_networks: Vec::new(),
            volumes: BTreeSet::new(),
            behaviours: HashMap::new(),
            execs: HashMap::new(),
            execs_running: 0,
            exec_listeners: Vec::new(),
            listening: HashMap::new(),
            stats: HashMap::new(),
            images: BTreeMap::new(),
            registry: BTreeMap::new(),
            build_lines: vec!["#1 [1/1] COPY . .".to_owned(), "#1 DONE 0.0s".to_owned()],
            build_image: image,
            builds: Vec::new(),
            subscribers: Vec::new(),
            written: 0,
        }
    }
}

pub(super) fn away() -> RuntimeError {
    RuntimeError::new(Kind::Unreachable, "the fake engine is away")
        .hint("is the fake set reachable?")
}

fn refuse<T>(kind: Kind, message: impl Into<String>) -> RuntimeResult<T> {
    Err(RuntimeError::new(kind, message))
}

impl State {
    /// Everybody who waits looks again.
    pub(super) fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// The task looks again when anything happens.
    pub(super) fn wait(&mut self, context: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            self.wakers.push(context.waker().clone());
        }
    }

    pub(super) fn tell(&mut self, change: Change) {
        for queue in self.subscribers.iter_mut().flatten() {
            queue.push_back(change.clone());
        }
        self.wake();
    }

    pub(super) fn tell_reachability(&mut self) {
        self.tell(if self.unreachable {
            Change::Lost("the fake engine is away".to_owned())
        } else {
            Change::Connected
        });
    }

    /// News of an instance, which nobody hears while the engine is away.
    fn changed(&mut self, id: &InstanceId) {
        if self.unreachable {
            self.wake();
        } else {
            self.tell(Change::Instance(id.clone()));
        }
    }

    pub(super) fn all(&self) -> Vec<Instance> {
        self.instances.values().map(Container::instance).collect()
    }

    pub(super) fn is_up(&self, id: &InstanceId) -> bool {
        self.instances.get(id).is_some_and(Container::is_up)
    }

    pub(super) fn all_up(&self) -> Vec<InstanceId> {
        let up = self.instances.iter().filter(|(_, container)| container.is_up());
        up.map(|(id, _)| id.clone()).collect()
    }

    // ---- Networks ----

    pub(super) fn ensure_network(&mut self, spec: NetworkSpec) -> RuntimeResult<()> {
        let (app, subnet) = (spec.app, spec.subnet);
        match self.networks.get(&app) {
            Some(there) if *there == subnet => return Ok(()),
            Some(there) => {
                let message = format!("the network of {app} is there with {there}, not {subnet}");
                return refuse(Kind::Conflict, message);
            }
            None => {}
        }
        let mut others = self.networks.values().chain(&self.foreign_networks);
        if others.any(|other| other.overlaps(subnet)) {
            return refuse(Kind::Conflict, format!("{subnet} overlaps another network"));
        }
        self.networks.insert(app, subnet);
        Ok(())
    }

    // ---- Instances ----

    pub(super) fn start(&mut self, spec: InstanceSpec) -> RuntimeResult<Instance> {
        let id = spec.id.clone();
        if let Some(there) = self.instances.get(&id) {
            if there.state != InstanceState::Created {
                return Ok(there.instance());
            }
        } else {
            self.check(&spec)?;
            self.instances.insert(
                id.clone(),
                Container { spec, state: InstanceState::Created, output: Vec::new() },
            );
            self.changed(&id);
        }
        let started = self.run(&id);
        if started.is_err() {
            self.vanish(&id);
        }
        started
    }

    fn check(&self, spec: &InstanceSpec) -> RuntimeResult<()> {
        let what = format!("{}.{} of {}", spec.process, spec.ordinal, spec.app);
        let Some(image) = self.images.get(&spec.image) else {
            return refuse(Kind::NotFound, format!("{what}: no such image: {}", spec.image));
        };
        if spec.command.is_none() && !image.info.has_command {
            return refuse(Kind::Invalid, format!("{what}: the image has no command"));
        }
        if let Some(mount) = spec.volumes.iter().find(|m| !self.volumes.contains(&m.engine_name)) {
            let message = format!("{what}: the volume {} is not there", mount.engine_name);
            return refuse(Kind::NotFound, message);
        }
        match self.networks.get(&spec.app) {
            None => refuse(Kind::NotFound, format!("{what}: its network is not there")),
            Some(subnet) if !subnet.contains(spec.address) => {
                refuse(Kind::Invalid, format!("{what}: {} is not in {subnet}", spec.address))
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn start_again(&mut self, id: &InstanceId) -> RuntimeResult<Instance> {
        match self.instances.get(id) {
            None => refuse(Kind::NotFound, format!("instance {id} is not there")),
            Some(there) if there.is_up() => Ok(there.instance()),
            Some(_) => self.run(id),
        }
    }

    /// Starts what is there and does not run.
    fn run(&mut self, id: &InstanceId) -> RuntimeResult<Instance> {
        let Some(container) = self.instances.get(id) else {
            return refuse(Kind::NotFound, format!("instance {id} is not there"));
        };
        let (app, address) = (container.spec.app.clone(), container.spec.address);
        if !self.networks.contains_key(&app) {
            return refuse(Kind::NotFound, format!("the network of {app} is not there"));
        }
        // As on an engine: only one that runs holds its address.
        let holds = |(other, container): (&InstanceId, &Container)| {
            other != id && container.is_up() && container.spec.address == address
        };
        if self.instances.iter().any(holds) {
            return refuse(Kind::Conflict, format!("instance {id}: address already in use"));
        }
        let behaviour = self.behaviour(id);
        let now = self.now;
        if let Some(container) = self.instances.get_mut(id) {
            container.state = InstanceState::Running { since: now };
        }
        self.changed(id);
        if let Behaviour::Exits { lines, code } = behaviour {
            for line in lines {
                self.write(id, OutputStream::Stdout, line.as_bytes());
            }
            self.exit(id, code, false);
        }
        self.instances
            .get(id)
            .map(Container::instance)
            .ok_or_else(|| RuntimeError::new(Kind::NotFound, format!("instance {id} is gone")))
    }

    /// What was said of the process type, else what the words of the suite's program mean.
    fn behaviour(&self, id: &InstanceId) -> Behaviour {
        let Some(container) = self.instances.get(id) else { return Behaviour::Lives };
        if let Some(behaviour) = self.behaviours.get(container.spec.process.as_str()) {
            return behaviour.clone();
        }
        let words = container.spec.command.as_deref().unwrap_or_default();
        match words.get(1).map(String::as_str) {
            Some("exit") => {
                let code = words.get(2).and_then(|code| code.parse().ok()).unwrap_or(0);
                let lines = words.get(3..).unwrap_or_default();
                Behaviour::Exits { lines: filled_in(lines, &container.spec.env), code }
            }
            _ => Behaviour::Lives,
        }
    }

    pub(super) fn exit(&mut self, id: &InstanceId, code: i64, oom: bool) {
        let at = self.now;
        if let Some(container) = self.instances.get_mut(id)
            && container.is_up()
        {
            container.state = InstanceState::Exited { code, oom, at };
            self.changed(id);
        }
    }

    pub(super) fn pause(&mut self, id: &InstanceId) {
        let since = self.now;
        if let Some(container) = self.instances.get_mut(id)
            && container.is_up()
        {
            container.state = InstanceState::Paused { since };
            self.changed(id);
        }
    }

    pub(super) fn vanish(&mut self, id: &InstanceId) {
        if self.instances.remove(id).is_some() {
            self.listening.remove(id);
            self.stats.remove(id);
            self.changed(id);
        }
    }

    pub(super) fn write(&mut self, id: &InstanceId, stream: OutputStream, text: &[u8]) {
        self.written += 1;
        let at_nanos = (self.now.0 as i64).saturating_mul(1_000_000) + self.written;
        if let Some(container) = self.instances.get_mut(id) {
            container.output.push(Output { at_nanos, stream, text: text.to_vec() });
            self.wake();
        }
    }

    pub(super) fn listens(&self, id: &InstanceId) -> RuntimeResult<Listening> {
        let Some(container) = self.instances.get(id) else {
            return refuse(Kind::NotFound, format!("instance {id} is not there"));
        };
        if let Some(listening) = self.listening.get(id) {
            return Ok(listening.clone());
        }
        let words = container.spec.command.as_deref().unwrap_or_default();
        let host = match words.get(1).map(String::as_str) {
            Some("loopback") => [127, 0, 0, 1],
            _ => [0, 0, 0, 0],
        };
        if !container.is_up() {
            return Ok(Listening::Unknown("it does not run".to_owned()));
        }
        let own = container.spec.port.map(|port| (host, port).into());
        let of_execs = self.exec_listeners.iter().filter(|(of, _)| of == id);
        Ok(Listening::At(own.into_iter().chain(of_execs.map(|(_, at)| *at)).collect()))
    }

    // ---- Volumes ----

    pub(super) fn remove_volume(&mut self, name: &str) -> RuntimeResult<()> {
        let mut mounts = self.instances.values().flat_map(|c| &c.spec.volumes);
        if mounts.any(|m| m.engine_name == name) {
            return refuse(Kind::Conflict, format!("the volume {name} is in use"));
        }
        self.volumes.remove(name);
        Ok(())
    }

    pub(super) fn uses(&self, id: &InstanceId) -> Stats {
        let idle = Stats { memory_bytes: 1_000_000, cpu_nanos: 0 };
        self.stats.get(id).copied().unwrap_or(idle)
    }

    // ---- Images ----

    pub(super) fn add_image(&mut self, reference: &str, info: ImageInfo, built_here: bool) {
        for image in self.images.values_mut() {
            image.references.remove(reference);
        }
        let references = BTreeSet::new();
        let image =
            self.images.entry(info.id.clone()).or_insert(Image { info, references, built_here });
        image.references.insert(reference.to_owned());
    }

    pub(super) fn image(&self, reference: &str) -> Option<&ImageInfo> {
        let named = |image: &&Image| image.references.contains(reference);
        let found = self.images.get(reference).or_else(|| self.images.values().find(named));
        found.map(|image| &image.info)
    }

    pub(super) fn remove_image(&mut self, id: &str) -> RuntimeResult<()> {
        let Some(image) = self.images.get(id) else { return Ok(()) };
        if !image.built_here {
            return refuse(Kind::Invalid, format!("the image {id} was not built by this server"));
        }
        if self.instances.values().any(|container| container.spec.image == id) {
            return refuse(Kind::Conflict, format!("the image {id} is in use"));
        }
        self.images.remove(id);
        Ok(())
    }
}

/// The lines with the variables that they name.
pub(super) fn filled_in(lines: &[String], env: &[(String, String)]) -> Vec<String> {
    let mut lines = lines.to_vec();
    for line in &mut lines {
        for (key, value) in env {
            *line = line.replace(&format!("${key}"), value);
        }
    }
    lines
}

impl Container {
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, InstanceState::Running { .. } | InstanceState::Paused { .. })
    }

    pub(super) fn instance(&self) -> Instance {
        Instance {
            id: self.spec.id.clone(),
            app: self.spec.app.clone(),
            rollout: self.spec.rollout.clone(),
            release: self.spec.release,
            process: self.spec.process.clone(),
            ordinal: self.spec.ordinal,
            address: Some(self.spec.address),
            port: self.spec.port,
            alone: self.spec.alone,
            one_off: self.spec.one_off,
            state: self.state,
        }
    }
}
