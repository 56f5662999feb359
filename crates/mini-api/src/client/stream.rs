//! NDJSON streams that find their place again after the connection or the server was lost.

use http::Method;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::ClientError;
use super::retry::Outage;
use super::transport::{Answer, Call, lost_words};
use super::{Client, LogQuery};
use crate::{DeploymentEvent, EventBody, LogItem};

/// The longest line that is accepted, in bytes.
const MAX_LINE: usize = 4 << 20;

/// One open answer, cut into lines. Reading is cancel safe.
struct Lines {
    answer: Answer,
    buffer: Vec<u8>,
    /// How much of `buffer` is known to hold no line end.
    searched: usize,
    ended: bool,
}

impl Lines {
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer[self.searched..].iter().position(|b| *b == b'\n');
        match end {
            Some(end) => {
                let rest = self.buffer.split_off(self.searched + end + 1);
                self.searched = 0;
                Some(std::mem::replace(&mut self.buffer, rest))
            }
            None if self.ended && !self.buffer.is_empty() => {
                self.searched = 0;
                Some(std::mem::take(&mut self.buffer))
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    /// The next line that is not blank; none at the end of the answer.
    async fn next(&mut self, client: &Client) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            while let Some(line) = self.take_line() {
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
            }
            if self.ended {
                return Ok(None);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(client.garbled("a line of the stream is too long"));
            }
            let silence = client.inner.timing.silence;
            match timeout(silence, self.answer.body.frame()).await {
                Ok(None) => self.ended = true,
                Ok(Some(Ok(frame))) => {
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
                }
                Ok(Some(Err(e))) => return Err(client.lost(lost_words(&e), true)),
                Err(_) => {
                    let why = format!("not even a heartbeat for {} s", silence.as_secs());
                    return Err(client.lost(why, true));
                }
            }
        }
    }
}

/// A stream and its place. `next` functions are cancel safe.
struct Feed {
    client: Client,
    open: Option<Lines>,
    outage: Outage,
}

enum Next<T> {
    Item(T),
    /// The answer ended as an answer should.
    Ended,
    /// The connection was lost, and it is time to ask again.
    Lost,
}

impl Feed {
    fn new(client: Client) -> Self {
        Self { client, open: None, outage: Outage::default() }
    }

    async fn next<T: DeserializeOwned>(&mut self, path: String) -> Result<Next<T>, ClientError> {
        let lines = match &mut self.open {
            Some(lines) => lines,
            None => {
                let call = Call { method: Method::GET, path, json: None, key: None };
                match self.client.try_open(&call).await {
                    Ok(answer) => self.open.insert(Lines {
                        answer,
                        buffer: Vec::new(),
                        searched: 0,
                        ended: false,
                    }),
                    Err(e) => {
                        self.outage.wait(&self.client, e).await?;
                        return Ok(Next::Lost);
                    }
                }
            }
        };
        match lines.next(&self.client).await {
            Ok(Some(line)) => {
                self.outage.over();
                let item = serde_json::from_slice(&line);
                item.map(Next::Item).map_err(|e| self.client.garbled(&e.to_string()))
            }
            Ok(None) => {
                self.open = None;
                Ok(Next::Ended)
            }
            Err(e) => {
                self.open = None;
                self.outage.wait(&self.client, e).await?;
                Ok(Next::Lost)
            }
        }
    }

    /// After an end that came too early: a server that stops closes its streams in order.
    async fn ended_early(&mut self) -> Result<(), ClientError> {
        let e = self.client.lost("the stream ended early".to_owned(), true);
        self.outage.wait(&self.client, e).await
    }
}

/// The events of one deployment, up to the final status. Made by [`Client::deployment_events`].
pub struct Events {
    feed: Feed,
    id: String,
    after: u64,
    finished: bool,
}

impl Events {
    pub(super) fn new(client: Client, id: String, after: u64) -> Self {
        Self { feed: Feed::new(client), id, after, finished: false }
    }

    /// The next event; none after the final status. Heartbeats are swallowed. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<DeploymentEvent>, ClientError> {
        while !self.finished {
            let path =
                format!("/v1/deployments/{}/events?after={}&follow=true", self.id, self.after);
            let event: DeploymentEvent = match self.feed.next(path).await? {
                Next::Item(event) => event,
                Next::Ended => {
                    self.feed.ended_early().await?;
                    continue;
                }
                Next::Lost => continue,
            };
            match event.number {
                Some(number) if number <= self.after => continue,
                Some(number) => self.after = number,
                None => {}
            }
            if let EventBody::Status { status } = event.body {
                self.finished = status.is_final();
            }
            if event.body != EventBody::Heartbeat {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// The log lines of one app. Made by [`Client::logs`].
pub struct Logs {
    feed: Feed,
    app: String,
    query: LogQuery,
    finished: bool,
}

impl Logs {
    pub(super) fn new(client: Client, app: String, query: LogQuery) -> Self {
        Self { feed: Feed::new(client), app, query, finished: false }
    }

    /// The next line or gap; none at the end, which a followed log does not have. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<LogItem>, ClientError> {
        while !self.finished {
            let path = format!("/v1/apps/{}/logs{}", self.app, self.query.to_query());
            match self.feed.next(path).await? {
                Next::Item(LogItem::Heartbeat) => {}
                Next::Item(item) => {
                    if let LogItem::Line(line) = &item {
                        self.query.after = Some(line.number);
                    }
                    return Ok(Some(item));
                }
                Next::Ended if self.query.follow => self.feed.ended_early().await?,
                Next::Ended => self.finished = true,
                Next::Lost => {}
            }
        }
        Ok(None)
    }
}
