//! Clients that speak HTTP/2, here without TLS and by prior knowledge.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::harness::*;

pub(crate) async fn connect<B>(proxy: &Proxy) -> SendRequest<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = proxy.client().await.stream;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn get(host: &str, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{host}{path}")).body(Empty::new()).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> (u16, HeaderMap, String) {
    let (parts, body) = response.into_parts();
    let bytes = soon("a body", body.collect()).await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn many_requests_share_a_connection_and_reach_the_app_as_http_1() {
    let proxy = Proxy::start().await;
    let (tx, mut heads) = mpsc::unbounded_channel();
    let (addr, seen) = upstream(move |_, mut conn, seen| {
        let tx = tx.clone();
        async move {
            while let Some(head) = conn.try_head().await {
                seen.requests.fetch_add(1, SeqCst);
                tx.send(head).unwrap();
                // Only when all are there: they are not served one after the other.
                while seen.requests.load(SeqCst) < 5 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                conn.send(
                    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\
                     Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\
                     Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                )
                .await;
            }
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let client = connect(&proxy).await;
    let mut asked = Vec::new();
    for n in 0..5 {
        let mut client = client.clone();
        let mut request = get("Blue.localhost", &format!("/{n}?q"));
        for cookie in ["a=1", "b=2"] {
            request.headers_mut().append("cookie", cookie.parse().unwrap());
        }
        request.headers_mut().insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
        asked.push(tokio::spawn(
            async move { text(client.send_request(request).await.unwrap()).await },
        ));
    }
    for asked in asked {
        let (status, headers, body) = asked.await.unwrap();
        assert_eq!((status, body.as_str()), (200, "ok"));
        assert_eq!(headers["x-end"], "2");
        assert_eq!(headers["via"], "1.1 mini");
        assert!(!headers.contains_key("x-hop") && !headers.contains_key("connection"));
    }
    let head = heads.recv().await.unwrap();
    assert!(head.contains("?q HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("Blue.localhost"));
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
    // The connections to the app are used again.
    let mut client = client;
    let (status, ..) = text(client.send_request(get("blue.localhost", "/")).await.unwrap()).await;
    assert_eq!((status, seen.connections.load(SeqCst)), (200, 5));
}

#[tokio::test]
async fn errors_of_the_router_have_their_codes() {
    let proxy = Proxy::start_with(|c| c.timeouts.first_byte = Duration::from_secs(1)).await;
    let (silent, _) = upstream(|_, mut conn, _| async move { drop(conn.rest().await) }).await;
    let (breaks, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
    })
    .await;
    let _c = proxy
        .with_table(vec![
            serving("refuses", nowhere().await),
            serving("silent", silent),
            serving("breaks", breaks),
        ])
        .await;
    let mut client = connect(&proxy).await;
    for (host, status, code) in [
        ("nobody.localhost", 404, "unknown_host"),
        ("refuses.localhost", 502, "H21"),
        ("silent.localhost", 504, "H12"),
        ("localhost", 503, "controller_unavailable"),
    ] {
        let sent = soon(host, client.send_request(get(host, "/"))).await.unwrap();
        let (got, headers, body) = text(sent).await;
        assert_eq!((got, headers["x-mini-error"].to_str().unwrap()), (status, code));
        assert!(body.contains(headers["x-request-id"].to_str().unwrap()), "{body}");
    }
    // A broken answer is broken for the client too, and the connection lives on.
    let whole = async {
        let sent = client.send_request(get("breaks.localhost", "/")).await?;
        sent.into_body().collect().await
    };
    assert!(soon("the break", whole).await.is_err());
    let sent = client.send_request(get("nobody.localhost", "/")).await.unwrap();
    assert_eq!(sent.status(), 404);
}

type Pieces =
    StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn pieces(mut from: mpsc::UnboundedReceiver<Frame<Bytes>>) -> Pieces {
    use futures_util::StreamExt as _;
    StreamBody::new(
        futures_util::stream::poll_fn(move |cx| from.poll_recv(cx).map(|f| f.map(Ok))).boxed(),
    )
}

#[tokio::test]
async fn bodies_and_trailers_flow_both_ways_at_once() {
    let proxy = Proxy::start().await;
    let (addr, _) = echo_chunks("x-sum: 7\r\n\r\n", "0\r\nX-Sum: 8\r\n\r\n").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = connect::<Pieces>(&proxy).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let request = Request::post("http://blue.localhost/").body(pieces(rx)).unwrap();
    let response = soon("the head", client.send_request(request)).await.unwrap();
    let mut body = response.into_body();
    for word in ["one", "two"] {
        tx.send(Frame::data(word.into())).unwrap();
        let frame = soon("an echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    tx.send(Frame::trailers(trailers)).unwrap();
    drop(tx);
    let frame = soon("the trailers", body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["x-sum"], "8");
}

#[tokio::test]
async fn an_app_that_speaks_http_2_is_spoken_to_in_it() {
    let proxy = Proxy::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.headers()["x-forwarded-for"], "127.0.0.1");
                let sent = request.into_body().collect().await?.to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames =
                    [Ok(Frame::data(sent)), Ok::<_, Infallible>(Frame::trailers(trailers))];
                let body = StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, hyper::Error>(Response::new(body))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let mut route = serving("grpc", addr);
    route.rules.h2c = true;
    let _c = proxy.with_table(vec![route]).await;
    let mut client = connect::<Full<Bytes>>(&proxy).await;
    for _ in 0..3 {
        let request = Request::post("http://grpc.localhost/pkg.Service/Method")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(Full::from("message"))
            .unwrap();
        let response = soon("an answer", client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
    }
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_refused_whatever_the_app_speaks() {
    let proxy = Proxy::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let h2c = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let sent = request.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(sent)))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let (h1, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.until("0\r\n\r\n").await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let mut routes = vec![serving("grpc", h2c), serving("blue", h1)];
    for route in &mut routes {
        route.rules.body_limit = Some(7);
    }
    routes[0].rules.h2c = true;
    let _c = proxy.with_table(routes).await;
    let mut client = connect::<BoxBody<Bytes, Infallible>>(&proxy).await;
    for (host, pieces, status) in [
        ("grpc.localhost", ["1234", "567"], 200),
        ("grpc.localhost", ["1234", "5678"], 413),
        ("blue.localhost", ["1234", "567"], 200),
        ("blue.localhost", ["1234", "5678"], 413),
    ] {
        let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from(piece))));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post(format!("http://{host}/")).body(BoxBody::new(body)).unwrap();
        let response = soon("an answer", client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), status, "{host} {pieces:?}");
        drop(response.into_body().collect().await);
    }
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection_and_hurt_nobody() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("ok").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    // By hand: HEADERS for `GET / blue.localhost`, and RST_STREAM right after it.
    let mut hostile = proxy.client().await.stream;
    hostile.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut block = vec![0x82, 0x84, 0x86, 0x41, 14];
    block.extend_from_slice(b"blue.localhost");
    let mut ended = false;
    for stream in (1..20_000_u32).step_by(2) {
        let id = stream.to_be_bytes();
        let mut frames = vec![0, 0, block.len() as u8, 1, 5];
        frames.extend_from_slice(&id);
        frames.extend_from_slice(&block);
        frames.extend_from_slice(&[0, 0, 4, 3, 0]);
        frames.extend_from_slice(&id);
        frames.extend_from_slice(&[0, 0, 0, 8]);
        if hostile.write_all(&frames).await.is_err() {
            ended = true;
            break;
        }
    }
    let mut said = Vec::new();
    let read = soon("the end", hostile.read_to_end(&mut said)).await;
    assert!(ended || read.is_err() || !said.is_empty(), "nothing was said against it");
    // GOAWAY with ENHANCE_YOUR_CALM (11), unless the reset overtook it.
    let calm = said.windows(13).any(|w| w[3] == 7 && w[..3] == [0, 0, 8] && w.len() == 13);
    assert!(calm || read.is_err() || ended, "{said:?}");
    assert_eq!(proxy.get("blue.localhost").await.body, "ok");
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let proxy = Proxy::start().await;
    let mut hostile = proxy.client().await.stream;
    hostile.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // HEADERS without END_HEADERS, then CONTINUATION frames that never end it.
    hostile.write_all(&[0, 0, 3, 1, 1, 0, 0, 0, 1, 0x82, 0x84, 0x86]).await.unwrap();
    let mut field = vec![0x00, 1, b'x', 0x7f, 0x81, 0x1f];
    field.extend_from_slice(&[b'a'; 4096]);
    field.truncate(4096);
    let mut sent = 0_usize;
    let size = (field.len() as u32).to_be_bytes();
    let mut frame = vec![size[1], size[2], size[3], 9, 0, 0, 0, 0, 1];
    frame.extend_from_slice(&field);
    let flood = async {
        while sent < 64 << 20 {
            if hostile.write_all(&frame).await.is_err() {
                break;
            }
            sent += frame.len();
        }
    };
    soon("the end of the flood", flood).await;
    assert!(sent < 64 << 20, "{sent} bytes of one head were taken");
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_idle_connections_go() {
    let mut proxy = Proxy::start_with(|c| c.drain = Duration::from_secs(30)).await;
    let go_on = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&go_on);
    let (addr, _) = upstream(move |_, mut conn, _| {
        let wait = Arc::clone(&wait);
        async move {
            conn.head().await;
            wait.notified().await;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            conn.rest().await;
        }
    })
    .await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let idle = connect::<Empty<Bytes>>(&proxy).await;
    let mut busy = connect(&proxy).await;
    let asked = tokio::spawn(async move {
        text(busy.send_request(get("blue.localhost", "/")).await.unwrap()).await
    });
    soon("the request", async { while c.status_without(|_| false).await.in_flight == 0 {} }).await;
    proxy.begin_shutdown();
    soon("the idle one to go", async {
        while !idle.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    go_on.notify_one();
    assert_eq!(soon("the answer", asked).await.unwrap().2, "ok");
    assert_eq!(proxy.finish().await, mini_proxy::Drained::All);
}
