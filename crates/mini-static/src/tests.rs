//! The server as its clients see it: over TCP, on a port of its own, from a folder on disk.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::server::{self, Ended};
use crate::site::Site;

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Ended>,
}

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A folder with the given files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

async fn start(dir: &TempDir) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let site = Arc::new(Site::open(dir.path()).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(server::serve(listener, site, async {
        let _ = stopped.await;
    }));
    Server { address, stop, ended }
}

impl Server {
    async fn send(&self, head: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let text = format!("{head}\r\nHost: site\r\nConnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            parse(&bytes)
        };
        tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an answer in time")
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1")).await
    }

    async fn get_with(&self, path: &str, header: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\n{header}")).await
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Answer { status, headers, body: bytes[end + 4..].to_vec() }
}

#[tokio::test]
async fn pages_are_found_under_the_names_people_use() {
    let dir = folder(&[
        ("index.html", b"home"),
        ("about.html", b"about"),
        ("docs/index.html", b"docs"),
        ("empty/x.txt", b"x"),
        ("a b/é.txt", b"accent"),
    ]);
    let server = start(&dir).await;
    for (path, body) in [
        ("/", "home"),
        ("/index.html", "home"),
        ("/?q=1", "home"),
        ("/about", "about"),
        ("/about.html", "about"),
        ("/docs/", "docs"),
        ("//docs//index.html", "docs"),
        ("/a%20b/%C3%A9.txt", "accent"),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
    }
    for path in ["/about.html/", "/about/", "/empty/", "/empty", "/nope", "/docs/index.html/x"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    let home = server.get("/").await;
    assert_eq!(home.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(home.header("cache-control"), "no-cache");
    assert_eq!(home.header("content-length"), "4");
    assert_eq!(home.header("x-content-type-options"), "nosniff");
    assert_eq!(server.get("/%zz").await.status, 400);
}

#[tokio::test]
async fn a_folder_without_its_slash_redirects_and_never_to_another_host() {
    let dir = folder(&[("docs/index.html", b"docs"), ("evil.example/index.html", b"x")]);
    let server = start(&dir).await;
    let answer = server.get("/docs?a=1&b=%20").await;
    assert_eq!((answer.status, answer.header("location")), (308, "/docs/?a=1&b=%20"));
    let answer = server.get("//evil.example").await;
    assert_eq!((answer.status, answer.header("location")), (308, "/evil.example/"));
}

#[tokio::test]
async fn what_is_not_there_gets_the_sites_own_page() {
    let dir = folder(&[("index.html", b"home")]);
    let server = start(&dir).await;
    let built_in = server.get("/nope").await;
    assert_eq!(built_in.status, 404);
    assert!(built_in.text().contains("Not Found"), "{}", built_in.text());

    fs::write(dir.path().join("404.html"), "<p>lost?</p>").unwrap();
    let own = server.get("/nope").await;
    assert_eq!((own.status, own.text()), (404, "<p>lost?</p>"));
    assert_eq!(own.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(own.header("etag"), "");
    // The page of a missing file must not turn into "not modified".
    assert_eq!(server.get_with("/nope", "If-None-Match: *").await.status, 404);
}

#[tokio::test]
async fn nothing_outside_the_folder_and_nothing_hidden_is_served() {
    let outside = folder(&[("secret.txt", b"secret"), ("index.html", b"secret")]);
    let dir = folder(&[
        ("index.html", b"home"),
        (".env", b"secret"),
        (".git/config", b"secret"),
        (".well-known/security.txt", b"contact"),
        ("real.txt", b"real"),
    ]);
    symlink(outside.path().join("secret.txt"), dir.path().join("link.txt")).unwrap();
    symlink(outside.path(), dir.path().join("linked")).unwrap();
    symlink("real.txt", dir.path().join("inside.txt")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    let server = start(&dir).await;
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    for path in [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/link.txt",
        "/linked",
        "/linked/",
        "/linked/secret.txt",
        "/loop",
        &format!("/../{name}/secret.txt"),
        &format!("/..%2f{name}%2fsecret.txt"),
        &format!("/%2e%2e/{name}/secret.txt"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("secret"), "{path}");
    }
    assert_eq!(server.get("/.well-known/security.txt").await.text(), "contact");
    assert_eq!(server.get("/inside.txt").await.text(), "real");
}

#[tokio::test]
async fn only_reading_is_allowed_and_head_sends_no_body() {
    let dir = folder(&[("index.html", b"home"), ("big.bin", &[7; 200_000])]);
    let server = start(&dir).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = server.send(&format!("{method} / HTTP/1.1")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    let answer = server.send("HEAD /big.bin HTTP/1.1").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length"), "200000");
    let answer = server.send("HEAD /nope HTTP/1.1").await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
}

#[tokio::test]
async fn a_client_that_has_the_file_is_not_sent_it_again() {
    let dir = folder(&[("a.css", b"body{}")]);
    let file = fs::File::options().write(true).open(dir.path().join("a.css")).unwrap();
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    file.set_modified(date).unwrap();
    let server = start(&dir).await;
    let first = server.get("/a.css").await;
    let (etag, modified) = (first.header("etag"), first.header("last-modified"));
    assert_eq!(modified, "Tue, 14 Nov 2023 22:13:20 GMT");
    for condition in [format!("If-None-Match: {etag}"), format!("If-Modified-Since: {modified}")] {
        let again = server.get_with("/a.css", &condition).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{condition}");
        assert_eq!(again.header("etag"), etag);
        assert_eq!(again.header("cache-control"), "public, max-age=3600");
    }
    assert_eq!(server.get_with("/a.css", "If-Match: \"other\"").await.status, 412);

    // The next release's file: same name, size and date.
    fs::write(dir.path().join("a.css"), b"html{}").unwrap();
    let file = fs::File::options().write(true).open(dir.path().join("a.css")).unwrap();
    file.set_modified(date).unwrap();
    let next = server.get_with("/a.css", &format!("If-None-Match: {etag}")).await;
    assert_eq!((next.status, next.text()), (200, "html{}"));
}

#[tokio::test]
async fn a_part_can_be_asked_for() {
    let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let dir = folder(&[("v.mp4", &content)]);
    let server = start(&dir).await;
    let whole = server.get("/v.mp4").await;
    assert_eq!(whole.body, content);
    assert_eq!(whole.header("accept-ranges"), "bytes");

    let part = server.get_with("/v.mp4", "Range: bytes=100-150099").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &content[100..150_100]));
    assert_eq!(part.header("content-range"), "bytes 100-150099/200000");
    assert_eq!(part.header("content-length"), "150000");
    let tail = server.get_with("/v.mp4", "Range: bytes=-5").await;
    assert_eq!((tail.status, tail.body.as_slice()), (206, &content[199_995..]));

    let outside = server.get_with("/v.mp4", "Range: bytes=200000-").await;
    assert_eq!((outside.status, outside.header("content-range")), (416, "bytes */200000"));
    // A resumed download of a file that changed starts over.
    let stale = server.get_with("/v.mp4", "Range: bytes=5-\r\nIf-Range: \"old\"").await;
    assert_eq!((stale.status, stale.body.len()), (200, 200_000));
    let fresh = format!("Range: bytes=5-\r\nIf-Range: {}", whole.header("etag"));
    assert_eq!(server.get_with("/v.mp4", &fresh).await.status, 206);
}

#[tokio::test]
async fn a_compressed_sibling_is_sent_to_those_who_take_it() {
    let dir = folder(&[("app.js", b"plain"), ("app.js.gz", b"GZ"), ("app.js.br", b"BR")]);
    let server = start(&dir).await;
    let mut tags = Vec::new();
    for (accept, body, coding) in
        [("identity", "plain", ""), ("gzip", "GZ", "gzip"), ("gzip, br", "BR", "br")]
    {
        let answer = server.get_with("/app.js", &format!("Accept-Encoding: {accept}")).await;
        assert_eq!((answer.text(), answer.header("content-encoding")), (body, coding));
        assert_eq!(answer.header("content-type"), "text/javascript; charset=utf-8");
        assert_eq!(answer.header("vary"), "Accept-Encoding");
        tags.push(answer.header("etag").to_owned());
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "each representation has a tag of its own");
    assert_eq!(server.get("/app.js.gz").await.header("content-encoding"), "");
}

#[tokio::test]
async fn a_named_pipe_does_not_hang_a_request() {
    let dir = folder(&[("index.html", b"home")]);
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let server = start(&dir).await;
    assert_eq!(server.get("/pipe").await.status, 404);
}

#[tokio::test]
async fn stopping_refuses_new_clients_and_finishes_the_old() {
    let dir = folder(&[("big.bin", &vec![3; 20 << 20])]);
    let server = start(&dir).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"HEAD / HTTP/1.1\r\nHost: site\r\n\r\n").await.unwrap();
    let mut start_of_answer = [0; 4096];
    assert!(idle.read(&mut start_of_answer).await.unwrap() > 0);
    busy.write_all(b"GET /big.bin HTTP/1.1\r\nHost: site\r\n\r\n").await.unwrap();
    let early = busy.read(&mut start_of_answer).await.unwrap();
    assert!(start_of_answer.starts_with(b"HTTP/1.1 200"));

    server.stop.send(()).unwrap();
    let wait = Duration::from_secs(10);
    // The kept connection that waits for nothing is closed.
    let mut rest = Vec::new();
    tokio::time::timeout(wait, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "still accepting");
    // The download that was under way is complete.
    let mut rest = Vec::new();
    tokio::time::timeout(wait, busy.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(early + rest.len() > 20 << 20, "cut after {} bytes", early + rest.len());
    assert_eq!(tokio::time::timeout(wait, server.ended).await.unwrap().unwrap(), Ended::Drained);
}
