//! Why a build failed, in the words of somebody who wrote the Dockerfile.

use mini_core::ports::{RuntimeError, RuntimeErrorKind as Kind};

use crate::build::trace::Failed;
use crate::{error, image};

/// A build that BuildKit ended. `message` is of the whole build, `step` what failed in it.
pub(crate) fn buildkit(message: &str, step: Option<&Failed>) -> RuntimeError {
    let Some(step) = step else { return explain(message, None) };
    if let Some(frontend) = step.name.strip_prefix("resolve image config for ") {
        let frontend =
            frontend.trim_start_matches("docker-image://").trim_start_matches("docker.io/");
        let why = image::refusal(frontend, &step.error);
        return failed(format!("the line \"# syntax={frontend}\" needs an image: {}", why.message))
            .hint("remove that line from the Dockerfile, or pull the image beforehand");
    }
    if let Some((_, base)) = step.name.split_once("load metadata for ") {
        return base_image(short(base), &step.error);
    }
    explain(&step.error, Some(instruction(&step.name)))
}

/// A build that the classic builder ended while at work on `step`.
pub(crate) fn classic(message: &str, step: Option<&str>) -> RuntimeError {
    if let Some(from) = step.and_then(|step| step.strip_prefix("FROM ")) {
        let base = from.split_whitespace().find(|word| !word.starts_with("--")).unwrap_or(from);
        return base_image(base, message);
    }
    explain(message, step)
}

/// A build that the engine refused before it began.
pub(crate) fn refused(error: RuntimeError, what: &str) -> RuntimeError {
    match error.kind {
        Kind::Unreachable | Kind::NotPermitted | Kind::NoSpace | Kind::Unsupported => error,
        _ => {
            let said = error.message.strip_prefix(&format!("{what}: "));
            explain(said.unwrap_or(&error.message), None)
        }
    }
}

fn failed(message: String) -> RuntimeError {
    RuntimeError::new(Kind::Failed, message)
}

/// `[build 2/3] RUN false` without where it stands.
fn instruction(name: &str) -> &str {
    match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, instruction)) => instruction,
        None => name,
    }
}

/// An image as a Dockerfile names it.
fn short(image: &str) -> &str {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    image.strip_prefix("library/").unwrap_or(image)
}

fn base_image(base: &str, said: &str) -> RuntimeError {
    let error = image::refusal(base, said);
    if error.kind == Kind::NoSpace {
        return error;
    }
    let words = error.message.trim_start_matches(&format!("pull {base}: ")).to_owned();
    let mut explained = failed(format!("the base image {base} is not to be had: {words}"));
    explained.hint = error.hint;
    explained
}

fn explain(said: &str, step: Option<&str>) -> RuntimeError {
    let line = error::one_line(said);
    let low = line.to_ascii_lowercase();
    if low.contains("no space left on device") {
        return error::from_answer("the build", 500, said);
    }
    let named = |words: String| match step {
        Some(step) => failed(format!("{}: {words}", error::one_line(step))),
        None => failed(words),
    };
    if let Some(code) = exit_code(&line) {
        let error = named(format!("exit code {code}"));
        return match code {
            137 => error.hint("it was killed, most likely because it ran out of memory"),
            127 => error.hint("a command was not found in the image"),
            _ => error,
        };
    }
    if low.contains("cannot locate specified dockerfile")
        || (low.contains("failed to read dockerfile") && low.contains("no such file"))
        || (low.contains("dockerfile") && low.contains("not found in build context"))
    {
        return failed("the source has no such Dockerfile".to_owned())
            .hint("name it in mini.toml if it is not called Dockerfile");
    }
    if low.contains("unknown instruction") {
        return failed(parse_error(&line)).hint(
            "is it a typing error? this engine's builder knows no here-documents (RUN <<EOF): use \
             a script, or a newer Docker Engine",
        );
    }
    if low.contains("unknown flag") {
        return failed(parse_error(&line)).hint(
            "this engine's builder does not know that flag: leave it out, or use a newer Docker \
             Engine",
        );
    }
    if low.contains("requires buildkit") {
        return named("it needs BuildKit, which this Docker Engine does not have".to_owned())
            .hint("leave the option out, or use a newer Docker Engine");
    }
    if let Some(path) = missing_file(&line, step) {
        return named(format!("{path} is not in the source"))
            .hint("is the path right, and does .dockerignore or .gitignore leave it out?");
    }
    if low.contains("failed to solve with frontend") || low.contains("failed to solve") {
        return named(parse_error(&line));
    }
    named(line)
}

/// The code in `exit code: 1` (BuildKit) or `returned a non-zero code: 1` (classic).
fn exit_code(line: &str) -> Option<i64> {
    let (_, rest) =
        line.rsplit_once("exit code: ").or_else(|| line.rsplit_once("non-zero code: "))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// What a COPY or ADD did not find: `"/nope" not found`, `"/nope": not found`.
fn missing_file<'a>(line: &'a str, step: Option<&str>) -> Option<&'a str> {
    if let Some((_, rest)) = line.split_once("excluded by .dockerignore: stat ") {
        return rest.split_once(':').map(|(path, _)| path);
    }
    let copies = step.is_some_and(|step| step.starts_with("COPY ") || step.starts_with("ADD "));
    if !copies && !line.contains("failed to compute cache key") {
        return None;
    }
    let (_, rest) = line.split_once('"')?;
    let (path, said) = rest.split_once('"')?;
    let missing = said.contains("not found") || said.contains("no such file");
    missing.then(|| path.trim_start_matches('/'))
}

/// A parse error without the builder's inner stations.
fn parse_error(line: &str) -> String {
    let known = ["dockerfile parse error", "Dockerfile parse error", "failed to parse"];
    let from = known.iter().filter_map(|start| line.find(start)).min();
    let mut text = from.map_or(line, |at| &line[at..]);
    for station in [
        "failed to solve with frontend dockerfile.v0: ",
        "failed to solve: ",
        "failed to create LLB definition: ",
        "failed to build LLB: ",
        "rpc error: code = Unknown desc = ",
    ] {
        text = text.strip_prefix(station).unwrap_or(text);
    }
    text.replacen("dockerfile parse error", "Dockerfile", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, error: &str) -> Failed {
        Failed { name: name.into(), error: error.into() }
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_exit_code() {
        let old =
            step("[2/3] RUN false", "executor failed running [/bin/sh -c false]: exit code: 1");
        let new = step(
            "[build 2/3] RUN false",
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
        );
        for step in [old, new] {
            let error = buildkit("failed to solve: …", Some(&step));
            assert_eq!(
                (error.kind, error.message.as_str()),
                (Kind::Failed, "RUN false: exit code 1")
            );
        }
        let error = classic(
            "The command '/bin/sh -c false' returned a non-zero code: 1",
            Some("RUN false"),
        );
        assert_eq!(error.message, "RUN false: exit code 1");
        let killed = classic("The command 'x' returned a non-zero code: 137", Some("RUN x"));
        assert!(killed.hint.unwrap().contains("memory"));
    }

    #[test]
    fn a_base_image_that_cannot_be_had_is_named_with_the_reason() {
        let away = "failed to do request: Head \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host";
        let error = buildkit(
            "failed to solve: …",
            Some(&step("[internal] load metadata for docker.io/library/node:20", away)),
        );
        assert_eq!(error.kind, Kind::Failed);
        assert_eq!(
            error.message,
            "the base image node:20 is not to be had: the registry of node:20 could not be reached"
        );
        let error =
            classic("manifest for node:99 not found: manifest unknown", Some("FROM node:99 AS b"));
        assert!(error.message.ends_with("the registry has no image node:99"), "{error}");
        assert_eq!(error.kind, Kind::Failed);
    }

    #[test]
    fn a_syntax_line_that_cannot_be_had_is_said_to_be_one() {
        let error = buildkit(
            "x",
            Some(&step(
                "resolve image config for docker.io/docker/dockerfile:1",
                "failed to do request: dial tcp: i/o timeout",
            )),
        );
        assert!(error.message.starts_with("the line \"# syntax=docker/dockerfile:1\""), "{error}");
        assert!(error.hint.unwrap().contains("remove that line"));
    }

    #[test]
    fn what_an_old_builder_does_not_know_is_said_plainly() {
        let error = buildkit(
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 3: unknown instruction: ECHO",
            None,
        );
        assert_eq!(error.message, "Dockerfile line 3: unknown instruction: ECHO");
        assert!(error.hint.unwrap().contains("here-documents"));
        let error = classic("dockerfile parse error line 2: Unknown flag: link", None);
        assert_eq!(error.message, "Dockerfile line 2: Unknown flag: link");
        let error = classic(
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/",
            Some("RUN --mount=type=cache,target=/x true"),
        );
        assert!(error.message.contains("needs BuildKit"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_in_the_source_is_named() {
        for said in [
            "\"/nope\" not found: not found",
            "failed to compute cache key: \"/nope\" not found: not found",
            "failed to calculate checksum of ref abc::def: \"/nope\": not found",
        ] {
            let error = buildkit("x", Some(&step("[2/3] COPY nope .", said)));
            assert_eq!(error.message, "COPY nope .: nope is not in the source");
        }
        let error = classic(
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
            Some("COPY nope ."),
        );
        assert_eq!(error.message, "COPY nope .: nope is not in the source");
    }

    #[test]
    fn a_full_disk_is_the_engines_matter_and_not_the_users() {
        let error = buildkit("x", Some(&step("[2/2] RUN x", "write /x: no space left on device")));
        assert_eq!(error.kind, Kind::NoSpace);
    }
}
