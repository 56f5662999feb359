//! One request to the controller's admin socket, in plain HTTP/1.1.

use std::path::Path;

use mini_api::{CreatedToken, ErrorBody, NewToken, Server, Token, Tokens};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const MAX_ANSWER: u64 = 4 << 20;

pub(crate) enum Asked {
    Answered(Box<CreatedToken>),
    Refused(String),
    NotRunning,
}

pub(crate) async fn create_token(socket: &Path, new: &NewToken) -> Asked {
    let Ok(stream) = UnixStream::connect(socket).await else { return Asked::NotRunning };
    match post(stream, "/v1/tokens", new).await {
        Ok(Ok(created)) => Asked::Answered(Box::new(created)),
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

/// What the controller says of itself; `None` if it does not answer as one.
pub(crate) async fn server(socket: &Path) -> Option<Server> {
    get(socket, "/v1/server").await
}

/// Every token that was not revoked; `None` if no controller answers.
pub(crate) async fn tokens(socket: &Path) -> Option<Vec<Token>> {
    get::<Tokens>(socket, "/v1/tokens").await.map(|all| all.tokens)
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Option<T> {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(ask.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
}
