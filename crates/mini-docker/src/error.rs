//! One place where the engine's errors become ours: kind, a clean line, a hint.

use std::error::Error as StdError;
use std::io;

use bollard::errors::Error as ApiError;
use mini_core::ports::{RuntimeError, RuntimeErrorKind as Kind};

const RUNNING_HINT: &str = "is Docker running? try: systemctl status docker";
const SOCKET_HINT: &str = "the server must be root or in the group \"docker\"";
const SPACE_HINT: &str = "free some space: docker system df says what takes it";

/// An error of a typed call about `what`.
pub(crate) fn from_api(what: &str, error: &ApiError) -> RuntimeError {
    match error {
        ApiError::DockerResponseServerError { status_code, message } => {
            from_answer(what, *status_code, message)
        }
        ApiError::DockerStreamError { error } => from_answer(what, 500, error),
        ApiError::RequestTimeoutError => unreachable(what, "it did not answer in time"),
        ApiError::SocketNotFoundError(path) => no_socket(what, path),
        ApiError::IOError { .. }
        | ApiError::HyperResponseError { .. }
        | ApiError::HyperLegacyError { .. } => from_transport(what, error),
        other => {
            RuntimeError::new(Kind::Other, format!("{what}: {}", one_line(&other.to_string())))
        }
    }
}

/// An error of the connection: the innermost I/O error says what it was.
pub(crate) fn from_transport(what: &str, error: &(dyn StdError + 'static)) -> RuntimeError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::PermissionDenied => {
                    return RuntimeError::new(
                        Kind::NotPermitted,
                        format!("{what}: the Docker Engine's socket may not be used"),
                    )
                    .hint(SOCKET_HINT);
                }
                io::ErrorKind::NotFound => return unreachable(what, "its socket is not there"),
                io::ErrorKind::ConnectionRefused => {
                    return unreachable(what, "nobody listens on its socket");
                }
                _ => {}
            }
        }
        cause = error.source();
    }
    tracing::debug!(error = ?error, what, "the connection to the engine broke");
    unreachable(what, "the connection broke")
}

pub(crate) fn unreachable(what: &str, why: &str) -> RuntimeError {
    RuntimeError::new(Kind::Unreachable, format!("{what}: the Docker Engine is away: {why}"))
        .hint(RUNNING_HINT)
}

fn no_socket(what: &str, path: &str) -> RuntimeError {
    unreachable(what, &format!("there is no socket {path}"))
}

/// An answer with an error status, or an error inside a stream.
pub(crate) fn from_answer(what: &str, status: u16, message: &str) -> RuntimeError {
    let said = clean(message);
    let low = said.to_ascii_lowercase();
    let has = |part: &str| low.contains(part);
    if has("no space left on device") || has("disk quota exceeded") {
        return RuntimeError::new(Kind::NoSpace, format!("{what}: the engine's disk is full"))
            .hint(SPACE_HINT);
    }
    let kind = if has("address already in use") || has("pool overlaps") {
        Kind::Conflict
    } else if has("cannot connect to the docker daemon") {
        Kind::Unreachable
    } else {
        match status {
            400 | 413 => Kind::Invalid,
            404 => Kind::NotFound,
            409 => Kind::Conflict,
            501 => Kind::Unsupported,
            503 => Kind::Unreachable,
            _ => Kind::Other,
        }
    };
    RuntimeError::new(kind, format!("{what}: {said}"))
}

/// An answer to a start: what is the image's or the request's fault is `Invalid`.
pub(crate) fn from_start(what: &str, error: RuntimeError) -> RuntimeError {
    if error.kind != Kind::Other && error.kind != Kind::Invalid {
        return error;
    }
    let said = error.message.strip_prefix(&format!("{what}: ")).unwrap_or(&error.message);
    let low = said.to_ascii_lowercase();
    let invalid = |words: String| RuntimeError::new(Kind::Invalid, format!("{what}: {words}"));
    if low.contains("no command specified") {
        return invalid("the image has no command".to_owned())
            .hint("add CMD to the Dockerfile, or a Procfile");
    }
    if low.contains("exec format error") {
        return invalid("the image was made for another kind of processor".to_owned());
    }
    if low.contains("executable file not found")
        || (low.contains("exec:") && low.contains("no such file or directory"))
    {
        let command = quoted(said).map_or("command".to_owned(), |c| format!("command \"{c}\""));
        return invalid(format!("the {command} was not found in the image"));
    }
    if low.contains("exec:") && low.contains("permission denied") {
        let command = quoted(said).map_or("command".to_owned(), |c| format!("command \"{c}\""));
        return invalid(format!("the {command} may not be executed"))
            .hint("set its executable bit in the image (chmod +x)");
    }
    let users_matter = [
        "unable to find user",
        "unable to find group",
        "chdir to cwd",
        "invalid mount config",
        "no configured subnet",
        "does not belong to any of this network's subnets",
    ];
    if error.kind == Kind::Invalid || users_matter.iter().any(|part| low.contains(part)) {
        return invalid(said.to_owned());
    }
    error
}

/// The first text in double quotes.
fn quoted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"').map(|(inside, _)| inside).filter(|inside| !inside.is_empty())
}

/// What the engine said, without the layers it passed through, in one line.
fn clean(message: &str) -> String {
    // Each names a program between the engine and the kernel, not what went wrong.
    const LAYERS: [&str; 9] = [
        "Error response from daemon: ",
        "failed to create task for container: ",
        "failed to create shim task: ",
        "failed to create shim: ",
        "OCI runtime create failed: ",
        "runc create failed: ",
        "unable to start container process: ",
        "error during container init: ",
        "driver failed programming external connectivity: ",
    ];
    let mut text = one_line(message);
    loop {
        let before = text.len();
        for layer in LAYERS {
            if let Some(rest) = text.strip_prefix(layer) {
                text = rest.to_owned();
            }
        }
        // Older versions of runc name their source line: `container_linux.go:380: …caused: `.
        if text.starts_with("container_linux.go:")
            && let Some((_, rest)) = text.split_once("caused: ")
        {
            text = rest.to_owned();
        }
        if let Some(rest) = text.strip_suffix(": unknown") {
            text = rest.to_owned();
        }
        if text.len() == before {
            return if text.is_empty() { "it gave no reason".to_owned() } else { text };
        }
    }
}

/// The text in one line, not endless.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > 600 {
        let end = (0..=600).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(status: u16, message: &str) -> RuntimeError {
        from_start("web.1", from_answer("web.1", status, message))
    }

    #[test]
    fn a_command_that_is_not_there_is_named_and_nothing_else_is() {
        for message in [
            "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"foo\": executable file not found in $PATH: unknown",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"foo\": executable file not found in $PATH: unknown",
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: \"foo\": stat foo: no such file or directory: unknown",
        ] {
            let error = start(400, message);
            assert_eq!(error.kind, Kind::Invalid);
            assert_eq!(error.message, "web.1: the command \"foo\" was not found in the image");
        }
    }

    #[test]
    fn the_kind_says_who_is_to_blame() {
        let space = start(500, "failed to start shim: mkdir /x: no space left on device: unknown");
        assert_eq!(space.kind, Kind::NoSpace);
        assert!(space.hint.is_some());
        assert_eq!(start(403, "Address already in use").kind, Kind::Conflict);
        assert_eq!(start(404, "No such image: x").kind, Kind::NotFound);
        assert_eq!(
            start(500, "unable to find user joe: no matching entries in passwd file").kind,
            Kind::Invalid
        );
        assert_eq!(start(500, "something else broke").kind, Kind::Other);
        assert_eq!(start(400, "No command specified").message, "web.1: the image has no command");
    }

    #[test]
    fn a_socket_that_is_closed_to_us_is_told_from_one_that_is_not_there() {
        let error = |kind| from_transport("info", &io::Error::from(kind));
        assert_eq!(error(io::ErrorKind::PermissionDenied).kind, Kind::NotPermitted);
        assert_eq!(error(io::ErrorKind::NotFound).kind, Kind::Unreachable);
        assert_eq!(error(io::ErrorKind::ConnectionReset).kind, Kind::Unreachable);
    }

    #[test]
    fn messages_are_one_line_and_end() {
        assert_eq!(one_line("a\n  b\tc"), "a b c");
        assert!(one_line(&"ä".repeat(1000)).len() < 700);
    }
}
