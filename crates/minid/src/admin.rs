//! One request to the controller's admin socket, in plain HTTP/1.1.

use std::path::Path;

use mini_api::{CreatedToken, ErrorBody, NewToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const MAX_ANSWER: u64 = 64 << 10;

pub(crate) enum Asked {
    Answered(CreatedToken),
    Refused(String),
    NotRunning,
}

pub(crate) async fn create_token(socket: &Path, new: &NewToken) -> Asked {
    let Ok(stream) = UnixStream::connect(socket).await else { return Asked::NotRunning };
    match post(stream, "/v1/tokens", new).await {
        Ok(Ok(created)) => Asked::Answered(created),
        Ok(Err(refused)) => Asked::Refused(refused.message),
        Err(error) => Asked::Refused(format!("the controller did not answer: {error}")),
    }
}

async fn post(
    mut stream: UnixStream,
    path: &str,
    body: &NewToken,
) -> std::io::Result<Result<CreatedToken, ErrorBody>> {
    let body = serde_json::to_string(body)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(if head.starts_with("HTTP/1.1 201") {
        Ok(serde_json::from_str(body)?)
    } else {
        Err(serde_json::from_str(body)?)
    })
}
