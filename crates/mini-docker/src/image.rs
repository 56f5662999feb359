//! Images: looking, pulling, and removing those that we built.

use std::collections::HashMap;

use bollard::models::{CreateImageInfo, HealthConfig, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use futures_util::{StreamExt, future, stream};
use mini_core::ports::{ImageInfo, Items, Progress, RuntimeError, RuntimeErrorKind, RuntimeResult};
use mini_core::release::CommandCheck;

use crate::engine::{Docker, LOOK, MAKE, positive};
use crate::{error, labels};

impl Docker {
    pub(crate) async fn image_info(&self, reference: String) -> RuntimeResult<Option<ImageInfo>> {
        Ok(self.inspect_image(&reference).await?.map(info))
    }

    async fn inspect_image(&self, reference: &str) -> RuntimeResult<Option<ImageInspect>> {
        check(reference)?;
        let what = format!("the image {reference}");
        match self.call(&what, LOOK, |api| api.inspect_image(reference)).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    pub(crate) async fn drop_image(&self, id: String) -> RuntimeResult<()> {
        let Some(found) = self.inspect_image(&id).await? else { return Ok(()) };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let ours = self.our_tags(found.repo_tags.unwrap_or_default());
        if !labels::is_ours(&labels, self.server(), labels::KIND_IMAGE) || ours.is_empty() {
            return Err(RuntimeError::new(
                RuntimeErrorKind::Invalid,
                format!("the image {id} was not built by this server"),
            ));
        }
        // The image goes with its last tag; one that somebody else put on keeps it for them.
        for tag in ours {
            let what = format!("the image {tag}");
            let removed = self
                .call(&what, MAKE, |api| api.remove_image(&tag, None::<RemoveImageOptions>, None))
                .await;
            match removed {
                Err(error) if error.kind == RuntimeErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    pub(crate) async fn built_images(&self) -> RuntimeResult<Vec<String>> {
        let filters = labels::filters(self.server(), labels::KIND_IMAGE, &[]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let found =
            self.call("the list of images", LOOK, |api| api.list_images(Some(options))).await?;
        let ours = found.into_iter().filter(|i| !self.our_tags(i.repo_tags.clone()).is_empty());
        Ok(ours.map(|image| image.id).collect())
    }

    /// The tags of ours on an image.
    pub(crate) async fn tags_of_ours(&self, id: &str) -> RuntimeResult<Vec<String>> {
        let found = self.inspect_image(id).await?;
        Ok(self.our_tags(found.and_then(|image| image.repo_tags).unwrap_or_default()))
    }

    /// The tags that only this server gives: a label alone is inherited by whatever is built from
    /// an image of ours.
    fn our_tags(&self, tags: Vec<String>) -> Vec<String> {
        let prefix = labels::image_prefix(self.server());
        tags.into_iter().filter(|tag| tag.starts_with(&prefix)).collect()
    }
}

fn info(found: ImageInspect) -> ImageInfo {
    let config = found.config.unwrap_or_default();
    let ports = config.exposed_ports.unwrap_or_default();
    // `8080/tcp`, or `8080` alone in images of other builders.
    let tcp = |port: String| port.strip_suffix("/tcp").unwrap_or(&port).parse::<u16>().ok();
    let mut ports: Vec<u16> = ports.into_iter().filter_map(tcp).collect();
    ports.sort_unstable();
    ports.dedup();
    let words = |words: Option<Vec<String>>| words.is_some_and(|words| !words.is_empty());
    let mut volumes = config.volumes.unwrap_or_default();
    volumes.sort();
    let built = config.labels.unwrap_or_default().get(labels::KIND).map(String::as_str)
        == Some(labels::KIND_IMAGE);
    ImageInfo {
        id: found.id.unwrap_or_default(),
        ports,
        check: config.healthcheck.and_then(|check| command_check(check, config.shell)),
        has_command: words(config.cmd) || words(config.entrypoint),
        volumes,
        size_bytes: positive(found.size),
        os: found.os.unwrap_or_default(),
        arch: found.architecture.unwrap_or_default(),
        built,
    }
}

/// The image's HEALTHCHECK; zeros stand for the engine's defaults (Dockerfile reference,
/// "HEALTHCHECK").
fn command_check(check: HealthConfig, shell: Option<Vec<String>>) -> Option<CommandCheck> {
    let test = check.test?;
    let command = match test.split_first()? {
        (kind, words) if kind == "CMD" && !words.is_empty() => words.to_vec(),
        (kind, [line]) if kind == "CMD-SHELL" => {
            let shell = shell.filter(|words| !words.is_empty());
            let mut words = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            words.push(line.clone());
            words
        }
        // NONE, and what no engine we know writes.
        _ => return None,
    };
    let or = |nanos: Option<i64>, default_ms: u64| match positive(nanos) / 1_000_000 {
        0 => default_ms,
        ms => ms,
    };
    Some(CommandCheck {
        command,
        interval_ms: or(check.interval, 30_000),
        timeout_ms: or(check.timeout, 30_000),
        start_period_ms: or(check.start_period, 0),
        retries: check.retries.and_then(|n| n.try_into().ok()).filter(|n| *n > 0).unwrap_or(3),
    })
}

/// Refuses what would be more than a reference inside a path of the engine's API.
fn check(reference: &str) -> RuntimeResult<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let climbs = reference.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if reference.len() <= 512 && reference.bytes().all(plain) && !climbs {
        return Ok(());
    }
    Err(RuntimeError::new(
        RuntimeErrorKind::Invalid,
        format!("{reference:?} is not the name of an image"),
    )
    .hint("write it as NAME, NAME:TAG, HOST/NAME:TAG or NAME@sha256:DIGEST"))
}

/// Name and tag; the tag is `latest` if none is named and the digest if one is. A colon before
/// the last slash belongs to a registry's port.
fn split(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, digest);
    }
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

pub(crate) fn pull(docker: Docker, reference: String) -> Items<RuntimeResult<Progress>> {
    let begun = async move {
        check(&reference)?;
        // A registry's image would take the name of one that we built.
        if reference.starts_with(&labels::image_prefix(docker.server())) {
            let message = format!("the engine has no image {reference}");
            return Err(RuntimeError::new(RuntimeErrorKind::NotFound, message));
        }
        let what = format!("pull {reference}");
        let (name, tag) = split(&reference);
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
        let api = docker.api(&what)?.clone();
        let mut layers = HashMap::new();
        let told = reference.clone();
        let steps = async_items(api, options).filter_map(move |item| {
            future::ready(match item {
                Ok(mut info) => match info.error_detail.take().and_then(|detail| detail.message) {
                    Some(message) => {
                        Some(Err(explain(&told, error::from_answer(&what, 500, &message))))
                    }
                    None => progress(&mut layers, info).map(Ok),
                },
                Err(error) => Some(Err(explain(&told, error::from_api(&what, &error)))),
            })
        });
        let last = stream::once(async move {
            let found = docker.inspect_image(&reference).await?;
            let id = found.and_then(|image| image.id).ok_or_else(|| {
                RuntimeError::new(
                    RuntimeErrorKind::Other,
                    format!("{reference} was pulled and is not on the engine"),
                )
            })?;
            Ok(Progress::Image(id))
        });
        Ok::<_, RuntimeError>(until_error(steps.chain(last)))
    };
    Box::pin(stream::once(begun).flat_map(|begun| match begun {
        Ok(items) => items,
        Err(error) => Box::pin(stream::once(future::ready(Err(error)))),
    }))
}

/// bollard's stream borrows its client; this one owns it.
fn async_items(
    api: bollard::Docker,
    options: bollard::query_parameters::CreateImageOptions,
) -> impl futures_core::Stream<Item = Result<CreateImageInfo, bollard::errors::Error>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let task = tokio::spawn(async move {
        let mut items = std::pin::pin!(api.create_image(Some(options), None, None));
        while let Some(item) = items.next().await {
            if sender.send(item).await.is_err() {
                break;
            }
        }
    });
    let guard = AbortOnDrop(task.abort_handle());
    stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
        Some((receiver.recv().await?, (receiver, guard)))
    })
}

pub(crate) struct AbortOnDrop(pub(crate) tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends a stream with its first error.
pub(crate) fn until_error<T: Send + 'static>(
    items: impl futures_core::Stream<Item = RuntimeResult<T>> + Send + 'static,
) -> Items<RuntimeResult<T>> {
    let mut failed = false;
    Box::pin(items.take_while(move |item| {
        let go_on = !failed;
        failed |= item.is_err();
        future::ready(go_on)
    }))
}

/// A step of a pull. A status is told once per layer, bytes as they come.
fn progress(layers: &mut HashMap<String, String>, info: CreateImageInfo) -> Option<Progress> {
    let status = info.status?;
    let Some(layer) = info.id else { return Some(Progress::Line(status)) };
    let detail = info.progress_detail.unwrap_or_default();
    if let (Some(done), Some(total)) = (detail.current, detail.total)
        && total > 0
    {
        return Some(Progress::Bytes {
            part: layer,
            done: positive(Some(done)),
            total: positive(Some(total)),
        });
    }
    let before = layers.insert(layer.clone(), status.clone());
    (before.as_ref() != Some(&status)).then(|| Progress::Line(format!("{layer}: {status}")))
}

/// What a registry's refusal means, in clear words.
fn explain(reference: &str, error: RuntimeError) -> RuntimeError {
    let low = error.message.to_ascii_lowercase();
    let has = |part: &str| low.contains(part);
    let failed = |words: String| RuntimeError::new(RuntimeErrorKind::Failed, words);
    if matches!(
        error.kind,
        RuntimeErrorKind::Unreachable | RuntimeErrorKind::NotPermitted | RuntimeErrorKind::NoSpace
    ) {
        return error;
    }
    let away = [
        "no such host",
        "connection refused",
        "i/o timeout",
        "timeout exceeded",
        "deadline exceeded",
        "no route to host",
        "network is unreachable",
        "server misbehaving",
        "temporary failure in name resolution",
        "tls handshake timeout",
        "connection reset",
    ];
    if away.iter().any(|part| has(part)) {
        return failed(format!("the registry of {reference} could not be reached"))
            .hint("is this machine connected to the internet? try again later");
    }
    if has("x509:") {
        return failed(format!("the registry of {reference} has a certificate nobody here trusts"));
    }
    if has("toomanyrequests") || has("rate limit") {
        return failed(format!("the registry of {reference} refuses more pulls for now"))
            .hint("wait, or log in on the engine's machine: docker login");
    }
    if has("pull access denied")
        || has("unauthorized")
        || has("access to the resource is denied")
        || has("authentication required")
    {
        return failed(format!(
            "the registry does not know {reference}, or does not let us have it"
        ))
        .hint("is the name right? a private image needs a login");
    }
    if has("manifest unknown") || has("not found") || has("no such image") {
        return RuntimeError::new(
            RuntimeErrorKind::NotFound,
            format!("the registry has no image {reference}"),
        )
        .hint("is the name right, and the tag?");
    }
    if has("no matching manifest") {
        return failed(format!("{reference} is not there for this kind of processor"));
    }
    if has("invalid reference format") {
        return RuntimeError::new(
            RuntimeErrorKind::Invalid,
            format!("{reference:?} is not the name of an image"),
        );
    }
    error
}

/// A registry's refusal that came as the text of an error.
pub(crate) fn refusal(reference: &str, said: &str) -> RuntimeError {
    explain(reference, error::from_answer(&format!("pull {reference}"), 500, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthcheck_is_read_with_the_engines_defaults() {
        let check = |test: &[&str], interval| {
            let test = Some(test.iter().map(|word| (*word).to_owned()).collect());
            command_check(HealthConfig { test, interval, ..Default::default() }, None)
        };
        let found = check(&["CMD", "/app", "health"], Some(2_500_000_000)).unwrap();
        assert_eq!(found.command, ["/app", "health"]);
        assert_eq!((found.interval_ms, found.timeout_ms, found.retries), (2_500, 30_000, 3));
        let found = check(&["CMD-SHELL", "curl -f localhost"], Some(0)).unwrap();
        assert_eq!(found.command, ["/bin/sh", "-c", "curl -f localhost"]);
        assert_eq!(found.interval_ms, 30_000);
        for none in [&["NONE"][..], &[], &["CMD"], &["CMD-SHELL"]] {
            assert_eq!(check(none, None), None, "{none:?}");
        }
    }

    #[test]
    fn a_reference_is_split_as_dockers_client_does() {
        assert_eq!(split("nginx"), ("nginx", "latest"));
        assert_eq!(split("nginx:1.2"), ("nginx", "1.2"));
        assert_eq!(split("host:5000/a/b"), ("host:5000/a/b", "latest"));
        assert_eq!(split("host:5000/a:x"), ("host:5000/a", "x"));
        assert_eq!(split("a@sha256:00"), ("a", "sha256:00"));
    }

    #[test]
    fn a_reference_cannot_leave_its_place_in_the_path() {
        for good in ["nginx", "sha256:00ff", "h:5000/a/b:c", "a@sha256:00"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "../x", "a/../b", "a b", "a?b", "a#b", "a%2e", "/a", "a//b", "ä"] {
            assert_eq!(check(bad).unwrap_err().kind, RuntimeErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn refusals_of_a_registry_are_told_apart() {
        let of = |message: &str| refusal("app:1", message);
        let away = of(
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
        );
        assert_eq!(away.message, "the registry of app:1 could not be reached");
        let denied = of(
            "pull access denied for app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        );
        assert!(denied.message.contains("does not know app:1"), "{denied}");
        let unknown = of("manifest for app:1 not found: manifest unknown: manifest unknown");
        assert_eq!(unknown.kind, RuntimeErrorKind::NotFound);
        assert_eq!(of("write /x: no space left on device").kind, RuntimeErrorKind::NoSpace);
        assert_eq!(of("something else").message, "pull app:1: something else");
    }

    #[test]
    fn bytes_are_for_bars_and_each_status_is_told_once() {
        let mut layers = HashMap::new();
        let mut step = |status: &str, current: Option<i64>| {
            let detail = bollard::models::ProgressDetail { current, total: current.map(|_| 100) };
            let info = CreateImageInfo {
                id: Some("abc".into()),
                status: Some(status.into()),
                progress_detail: Some(detail),
                ..Default::default()
            };
            progress(&mut layers, info)
        };
        assert_eq!(step("Waiting", None), Some(Progress::Line("abc: Waiting".into())));
        assert_eq!(step("Waiting", None), None);
        let bytes = Progress::Bytes { part: "abc".into(), done: 40, total: 100 };
        assert_eq!(step("Downloading", Some(40)), Some(bytes));
    }
}
