//! What is written on the engine's objects, and how they are called.
//!
//! The *value* of `mini.server` says whose an object is. Labels of an image pass on to images
//! built from it, so an image is ours only if it also carries a tag of ours.

use std::collections::HashMap;

use mini_core::id::{DeploymentId, InstanceId, ServerId};
use mini_core::name::AppName;
use mini_core::ports::{InstanceSpec, OneOff, owner_label};
use mini_core::subnet::Subnet;

pub(crate) const KIND: &str = "mini.kind";
pub(crate) const KIND_INSTANCE: &str = "instance";
pub(crate) const KIND_NETWORK: &str = "network";
pub(crate) const KIND_VOLUME: &str = "volume";
pub(crate) const KIND_IMAGE: &str = "image";
pub(crate) const INSTANCE: &str = "mini.instance";
pub(crate) const APP: &str = "mini.app";
pub(crate) const ROLLOUT: &str = "mini.rollout";
pub(crate) const RELEASE: &str = "mini.release";
pub(crate) const PROCESS: &str = "mini.process";
pub(crate) const ORDINAL: &str = "mini.ordinal";
pub(crate) const ADDRESS: &str = "mini.address";
pub(crate) const PORT: &str = "mini.port";
pub(crate) const ALONE: &str = "mini.alone";
/// Only on one-off commands: how they were begun.
pub(crate) const ONE_OFF: &str = "mini.one-off";
pub(crate) const ATTACHED: &str = "attached";
pub(crate) const DETACHED: &str = "detached";

pub(crate) type Labels = HashMap<String, String>;

/// A filter of the engine's lists: every label must be there with its value.
pub(crate) type Filters = HashMap<String, Vec<String>>;

fn owned(server: &ServerId, kind: &str) -> Labels {
    HashMap::from([owner_label(server), (KIND.to_owned(), kind.to_owned())])
}

/// The filter for our objects of one kind, with more labels where `extra` names them.
pub(crate) fn filters(server: &ServerId, kind: &str, extra: &[(&str, &str)]) -> Filters {
    let (key, value) = owner_label(server);
    let mut labels = vec![format!("{key}={value}"), format!("{KIND}={kind}")];
    labels.extend(extra.iter().map(|(key, value)| format!("{key}={value}")));
    HashMap::from([("label".to_owned(), labels)])
}

/// Whether an object with these labels is ours and of that kind.
pub(crate) fn is_ours(labels: &Labels, server: &ServerId, kind: &str) -> bool {
    let (key, value) = owner_label(server);
    labels.get(&key) == Some(&value) && labels.get(KIND).is_some_and(|k| k == kind)
}

pub(crate) fn of_instance(server: &ServerId, spec: &InstanceSpec) -> Labels {
    let mut labels = owned(server, KIND_INSTANCE);
    let mut put = |key: &str, value: String| labels.insert(key.to_owned(), value);
    put(INSTANCE, spec.id.to_string());
    put(APP, spec.app.to_string());
    put(ROLLOUT, spec.rollout.to_string());
    put(RELEASE, spec.release.to_string());
    put(PROCESS, spec.process.to_string());
    put(ORDINAL, spec.ordinal.to_string());
    put(ADDRESS, spec.address.to_string());
    if let Some(port) = spec.port {
        put(PORT, port.to_string());
    }
    if spec.alone {
        put(ALONE, "true".to_owned());
    }
    match spec.one_off {
        Some(OneOff::Attached) => put(ONE_OFF, ATTACHED.to_owned()),
        Some(OneOff::Detached) => put(ONE_OFF, DETACHED.to_owned()),
        None => None,
    };
    labels
}

pub(crate) fn of_network(server: &ServerId, app: &AppName) -> Labels {
    let mut labels = owned(server, KIND_NETWORK);
    labels.insert(APP.to_owned(), app.to_string());
    labels
}

pub(crate) fn of_volume(server: &ServerId, app: &AppName) -> Labels {
    let mut labels = owned(server, KIND_VOLUME);
    labels.insert(APP.to_owned(), app.to_string());
    labels
}

pub(crate) fn of_image(server: &ServerId, app: &AppName) -> Labels {
    let mut labels = owned(server, KIND_IMAGE);
    labels.insert(APP.to_owned(), app.to_string());
    labels
}

/// `mini-SERVER-APP-web.1-INSTANCE`, unique by its last part.
pub(crate) fn container_name(server: &ServerId, spec: &InstanceSpec) -> String {
    let id = spec.id.as_str();
    let id = &id[..id.len().min(8)];
    format!("mini-{}-{}-{}.{}-{id}", server.short(), spec.app, spec.process, spec.ordinal)
}

/// What the app sees as its host's name; at most 63 characters (RFC 1123 section 2.1).
pub(crate) fn host_name(spec: &InstanceSpec) -> String {
    let mut name = format!("{}-{}-{}", spec.app, spec.process, spec.ordinal).replace('_', "-");
    let tail = format!("-{}", spec.ordinal);
    if name.len() > 63 {
        name.truncate(63 - tail.len());
        name.push_str(&tail);
    }
    name
}

pub(crate) fn network_name(server: &ServerId, app: &AppName) -> String {
    format!("mini-{}-{app}", server.short())
}

/// The bridge's interface: `mini`, four characters of the server, and 28 bits of the subnet's
/// address in hex, which no two networks of 16 addresses or more share. 15 characters, the most
/// that Linux takes (IFNAMSIZ).
pub(crate) fn bridge_name(server: &ServerId, subnet: Subnet) -> String {
    format!("{}{:07x}", bridge_prefix(server), u32::from(subnet.address()) >> 4)
}

/// What the names of all bridges of one server begin with.
pub fn bridge_prefix(server: &ServerId) -> String {
    format!("mini{:0<4}", server.short())
}

/// What comes before the app in the name of every image of ours.
pub(crate) fn image_prefix(server: &ServerId) -> String {
    format!("mini-{}/", server.short())
}

/// Not to be guessed: a Dockerfile may name any image of the engine (`FROM`, `COPY --from`).
pub(crate) fn image_tag(
    server: &ServerId,
    app: &AppName,
    deployment: &DeploymentId,
    secret: &str,
) -> String {
    format!("{}{app}:{deployment}-{secret}", image_prefix(server))
}

/// How messages name an instance that only its id is known of.
pub(crate) fn instance_words(id: &InstanceId) -> String {
    format!("instance {id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_core::ports::InstanceSpec;

    fn spec(app: &str, process: &str) -> InstanceSpec {
        InstanceSpec {
            id: "0123456789abcdef".parse().unwrap(),
            app: app.parse().unwrap(),
            rollout: "d1".parse().unwrap(),
            release: 7,
            process: process.parse().unwrap(),
            ordinal: 12,
            image: "sha256:0".into(),
            command: None,
            env: Vec::new(),
            address: "10.210.0.66".parse().unwrap(),
            port: Some(8080),
            limits: Default::default(),
            alone: false,
            volumes: Vec::new(),
            one_off: None,
        }
    }

    #[test]
    fn names_fit_what_the_kernel_and_dns_take() {
        let server: ServerId = "abcdef0123".parse().unwrap();
        assert_eq!(
            container_name(&server, &spec("blue-sky", "web")),
            "mini-abcd-blue-sky-web.12-01234567"
        );
        let long = host_name(&spec(&"a".repeat(30), &"w_".repeat(15)));
        assert!(long.len() <= 63 && long.ends_with("-12") && !long.contains('_'), "{long}");
        let names: Vec<String> = ["10.210.0.0/26", "10.210.0.64/26", "10.211.0.0/26"]
            .map(|s| bridge_name(&server, s.parse().unwrap()))
            .into();
        assert!(names.iter().all(|n| n.len() == 15 && n.starts_with("miniabcd")), "{names:?}");
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
        let short: ServerId = "a".parse().unwrap();
        assert_eq!(bridge_name(&short, "10.210.0.0/26".parse().unwrap()).len(), 15);
    }

    #[test]
    fn the_label_value_decides_whose_an_object_is() {
        let ours: ServerId = "abcd1".parse().unwrap();
        let theirs: ServerId = "abcd2".parse().unwrap();
        let labels = of_instance(&ours, &spec("a", "web"));
        assert!(is_ours(&labels, &ours, KIND_INSTANCE));
        assert!(!is_ours(&labels, &theirs, KIND_INSTANCE));
        assert!(!is_ours(&labels, &ours, KIND_IMAGE));
    }
}
