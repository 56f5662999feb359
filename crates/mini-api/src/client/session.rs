//! Sessions: a connection that turned into frames.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Method;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mini_core::name::AppName;
use serde::Serialize;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::transport::Call;
use super::{Client, ClientError};
use crate::session::{Frame, Frames, NewExec, NewRun, Run, SILENCE_SECONDS};

/// A command that somebody is attached to.
pub struct Session {
    /// `run.1`, as the server named it.
    pub instance: Option<String>,
    pub reader: SessionReader,
    pub writer: SessionWriter,
}

pub struct SessionReader {
    client: Client,
    frames: FramedRead<ReadHalf<TokioIo<Upgraded>>, Frames>,
}

pub struct SessionWriter {
    frames: FramedWrite<WriteHalf<TokioIo<Upgraded>>, Frames>,
}

impl SessionReader {
    /// The next frame. A server that says nothing for too long, or hangs up, is lost.
    pub async fn next(&mut self) -> Result<Frame, ClientError> {
        match timeout(Duration::from_secs(SILENCE_SECONDS), self.frames.next()).await {
            Ok(Some(Ok(frame))) => Ok(frame),
            Ok(Some(Err(crate::session::BadFrame::Io(_))) | None) => {
                Err(self.client.lost("the connection was lost".to_owned(), true))
            }
            Ok(Some(Err(bad))) => Err(self.client.garbled(&bad.to_string())),
            Err(_) => {
                let why = format!("nothing was heard of it for {SILENCE_SECONDS} s");
                Err(self.client.lost(why, true))
            }
        }
    }
}

impl SessionWriter {
    /// Sends a frame; false once nobody takes it any more, which the reader finds out too.
    pub async fn send(&mut self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }
}

impl Client {
    /// Runs a command in an instance.
    pub async fn exec(&self, app: &AppName, new: &NewExec) -> Result<Session, ClientError> {
        self.open_session(format!("/v1/apps/{app}/exec"), new).await
    }

    /// Runs a one-off command; `new.detach` must not be set.
    pub async fn run(&self, app: &AppName, new: &NewRun) -> Result<Session, ClientError> {
        self.open_session(format!("/v1/apps/{app}/runs"), new).await
    }

    /// Starts a one-off command that nobody is attached to; `new.detach` must be set.
    pub async fn run_detached(&self, app: &AppName, new: &NewRun) -> Result<Run, ClientError> {
        self.send(Method::POST, format!("/v1/apps/{app}/runs"), Some(new), None).await
    }

    /// One try: the command may have begun when an answer is lost.
    async fn open_session<B: Serialize>(
        &self,
        path: String,
        new: &B,
    ) -> Result<Session, ClientError> {
        let json = serde_json::to_vec(new).map_err(|e| self.garbled(&e.to_string()))?;
        let call = Call { method: Method::POST, path, json: Some(json.into()), key: None };
        let (upgraded, instance) = self.try_upgrade(&call).await?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Ok(Session {
            instance,
            reader: SessionReader { client: self.clone(), frames: FramedRead::new(read, Frames) },
            writer: SessionWriter { frames: FramedWrite::new(write, Frames) },
        })
    }
}
