use super::*;

/// What a connection's bytes are read as: each request's line and data, or why it was refused.
fn requests(input: &[u8], piece: usize) -> (Vec<String>, Option<Refusal>) {
    let mut said = Vec::new();
    let mut buf: Vec<u8> = Vec::new();
    let mut finder = Finder::default();
    let mut body: Option<(Body, Vec<u8>)> = None;
    for bytes in input.chunks(piece) {
        buf.extend_from_slice(bytes);
        loop {
            if let Some((framing, data)) = &mut body {
                let step = match framing.take(&mut buf) {
                    Ok(step) => step,
                    Err(why) => return (said, Some(why)),
                };
                data.extend_from_slice(&buf[step.start..step.start + step.len]);
                buf.drain(..step.used);
                if !framing.is_done() {
                    break;
                }
                let trailers = String::from_utf8_lossy(framing.trailers()).into_owned();
                said.push(format!("{}{trailers}", String::from_utf8_lossy(data)));
                body = None;
            }
            buf.drain(..skip_empty_lines(&buf));
            let end = match finder.request(&buf) {
                Ok(Some(end)) => end,
                Ok(None) => break,
                Err(why) => return (said, Some(why)),
            };
            let head: Vec<u8> = buf.drain(..end).collect();
            match Request::read(&head, &mut room()) {
                Ok(request) => {
                    let Target { slash, rest } = request.target;
                    said.push(format!("{} {slash}{rest} {}", request.method, request.host));
                    body = Some((request.body, Vec::new()));
                }
                Err(why) => return (said, Some(why)),
            }
        }
    }
    (said, None)
}

use request::Target;

/// Reads `input` in pieces of every size, which must not matter.
fn read(input: impl AsRef<[u8]>) -> (Vec<String>, Option<Refusal>) {
    let input = input.as_ref();
    let whole = requests(input, input.len().max(1));
    for piece in 1..input.len().min(40) {
        let again = requests(input, piece);
        assert_eq!(again, whole, "in pieces of {piece}: {:?}", String::from_utf8_lossy(input));
    }
    whole
}

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

#[test]
fn requests_are_followed_to_their_ends() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
                 POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                 POST /y HTTP/1.1\r\nHost:a\r\nTransfer-Encoding: Chunked\r\n\r\n\
                 5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\nHost: b\r\nX-Forwarded-For: c\r\n\r\n\
                 \r\nGET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n";
    let (said, refused) = read(input);
    assert_eq!(refused, None);
    assert_eq!(
        said,
        [
            "GET / a",
            "",
            "POST /x a",
            "hello",
            "POST /y a",
            "hello0123456789T: 1\r\n",
            "GET /?q a",
            ""
        ]
    );
}

#[test]
fn what_is_ambiguous_is_refused() {
    use Refusal as R;
    for (input, why) in [
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked"), R::LengthAndCoding),
        (post("transfer-encoding: chunked\r\nCONTENT-LENGTH: 0"), R::LengthAndCoding),
        (post("Content-Length: 5\r\nContent-Length: 5"), R::Length),
        (post("Content-Length: 5, 5"), R::Length),
        (post("Content-Length: +5"), R::Length),
        (post("Content-Length: 0x5"), R::Length),
        (post("Content-Length:"), R::Length),
        (post("Content-Length: 99999999999999999999"), R::Length),
        (post("Transfer-Encoding: gzip, chunked"), R::Coding),
        (post("Transfer-Encoding: chunked, chunked"), R::Coding),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), R::Coding),
        (post("Transfer-Encoding: identity"), R::Coding),
        (post("Transfer-Encoding:\x0bchunked"), R::NotHttp),
        (post("Transfer-Encoding : chunked"), R::NotHttp),
        (post("X: 1\r\n folded: 2"), R::NotHttp),
        (post("X: a\rb"), R::NotHttp),
        (post("X: a\0b"), R::NotHttp),
        (post("Host: a"), R::Hosts),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), R::Coding),
        ("GET / HTTP/1.1\r\n\r\n".into(), R::NoHost),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".into(), R::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\n\n".into(), R::BareLineFeed),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::NotHttp),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), R::NotHttp),
        ("GET /\r\nHost: a\r\n\r\n".into(), R::NotHttp),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::NotHttp),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::Target),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::Target),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::HostDiffers),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::HostDiffers),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into(), R::Connect),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::Trace),
        ("\x16\x03\x01".into(), R::NotHttp),
    ] {
        assert_eq!(read(&input), (vec![], Some(why)), "{input:?}");
    }
    for (input, why) in [
        ("5\nhello\r\n0\r\n\r\n", R::Chunk),
        ("5\r\nhelloX", R::Chunk),
        ("5\r\nhello\nX", R::Chunk),
        ("\r\n", R::Chunk),
        (" 5\r\n", R::Chunk),
        ("0x5\r\n", R::Chunk),
        ("-1\r\n", R::Chunk),
        (";x\r\n", R::Chunk),
        ("5;a\nb\r\n", R::Chunk),
        ("5;a\rb\r\n", R::Chunk),
        ("1111111111111111\r\n", R::Chunk),
        ("0\r\nX: 1\n\r\n", R::Chunk),
        ("0\r\nno colon\r\n\r\n", R::Chunk),
    ] {
        let (said, refused) = read(post("Transfer-Encoding: chunked") + input);
        assert_eq!((said.len(), refused), (1, Some(why)), "{input:?}");
    }
    let second = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &post("Content-Length: x");
    let (said, refused) = read(second);
    assert_eq!((said.len(), refused), (2, Some(R::Length)));
}

#[test]
fn sizes_have_limits() {
    let mut finder = Finder::default();
    let head = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
    assert_eq!(finder.request(head.as_bytes()), Err(Refusal::TooLarge));
    let fields: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let refused = Request::read(head.as_bytes(), &mut room()).err();
    assert_eq!(refused, Some(Refusal::TooManyFields));
    let long = post("Transfer-Encoding: chunked") + "5;" + &"x".repeat(2000);
    assert_eq!(read(long).1, Some(Refusal::Chunk));
    let long = post("Transfer-Encoding: chunked") + "0\r\nX: " + &"x".repeat(9000);
    assert_eq!(read(long).1, Some(Refusal::TooLarge));
}

#[test]
fn what_a_request_asks_of_the_connection() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, Upgrade, host\r\n\
                Upgrade: websocket\r\nTE: gzip, trailers\r\nExpect: 100-Continue\r\n\r\n";
    let mut space = room();
    let request = Request::read(head.as_bytes(), &mut space).ok().unwrap();
    assert_eq!(request.upgrade, Some(&b"websocket"[..]));
    assert!(request.keep_alive && request.te_trailers && request.expects_continue);
    assert!(request.is_named("x-secret") && !request.is_named("host"));
    for (fields, upgrade, keep_alive) in [
        ("Upgrade: websocket", false, true),
        ("Connection: upgrade, http2-settings\r\nUpgrade: h2c", false, true),
        ("Connection: upgrade\r\nUpgrade: websocket, H2C", false, true),
        ("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b", false, true),
        ("Connection: Close", false, false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut space = room();
        let request = Request::read(head.as_bytes(), &mut space).ok().unwrap();
        assert_eq!(
            (request.upgrade.is_some(), request.keep_alive),
            (upgrade, keep_alive),
            "{head}"
        );
    }
}

fn answer(head: &str, to_head: bool) -> Result<(u16, String, bool), Refusal> {
    let mut finder = Finder::default();
    let end = finder.response(head.as_bytes())?.expect("a whole head");
    let mut space = room();
    let answer = Response::read(&head.as_bytes()[..end], to_head, &mut space)?;
    Ok((answer.status, format!("{:?}", answer.body), answer.keep_alive))
}

#[test]
fn answers_have_one_length() {
    let none = |status| Ok((status, "None".to_owned(), true));
    for (head, to_head, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            false,
            Ok((200, "Length(5)".into(), true)),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, none(200)),
        ("HTTP/1.1 304\r\nContent-Length: 5\r\n\r\n", false, none(304)),
        ("HTTP/1.1 204 No Content\r\n\r\n", false, none(204)),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", false, none(103)),
        ("HTTP/1.1 200 OK\r\n\r\n", false, Ok((200, "UntilClose".into(), false))),
        ("HTTP/1.0 200 OK\nContent-Length: 1\n\n", false, Ok((200, "Length(1)".into(), false))),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            false,
            Ok((200, "Length(0)".into(), false)),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            false,
            Err(Refusal::Length),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            Err(Refusal::LengthAndCoding),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            false,
            Err(Refusal::Coding),
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, Err(Refusal::Coding)),
        ("SSH-2.0-OpenSSH\r\n\r\n", false, Err(Refusal::NotHttp)),
        ("HTTP/1.1 099 Low\r\n\r\n", false, Err(Refusal::NotHttp)),
    ] {
        assert_eq!(answer(head, to_head), expected, "{head:?}");
    }
}

#[test]
fn fields_of_the_hop_stay_behind() {
    let head = b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nKeep-Alive: 5\r\nX-Hop: 1\r\n\
                 Content-Length: 0\r\nX-End: 1\r\n\r\n";
    let mut space = room();
    let answer = Response::read(head, false, &mut space).ok().unwrap();
    let passed: Vec<_> =
        answer.fields.iter().map(|f| f.name).filter(|n| answer.passes(n)).collect();
    assert_eq!(passed, ["X-End"]);
}
