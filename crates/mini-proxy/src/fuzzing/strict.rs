//! A second reader of HTTP/1.1, written by the grammar of RFC 9112 alone and with no mercy: what the
//! proxy sends on must be plain to anybody. It shares nothing with the first one.

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Method and target, or the status.
    pub(super) start: String,
    /// Fields but for the one that tells the time, those of the trailer section among them.
    fields: Fields,
    body: Vec<u8>,
}

/// All requests of a stream that ends with the last of them.
pub(super) fn requests(mut bytes: &[u8]) -> Result<Vec<Message>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (line, mut fields, rest) = head(bytes)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("no request line: {line:?}"));
        };
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(format!("no method: {method:?}"));
        }
        if !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
            return Err(format!("no target: {target:?}"));
        }
        if named(&fields, "host").len() != 1 {
            return Err("not one Host".into());
        }
        let start = format!("{method} {target}");
        let body;
        (body, bytes) = match framing(&fields)? {
            Some(Framing::Length(n)) => {
                let (body, rest) = rest.split_at_checked(n).ok_or("a short body")?;
                (body.to_vec(), rest)
            }
            Some(Framing::Chunked) => chunks(rest, &mut fields)?,
            None => (Vec::new(), rest),
        };
        all.push(Message { start, fields, body });
    }
    Ok(all)
}

/// All answers of a stream to requests with GET or HEAD; only the last may end with the stream.
pub(super) fn responses(mut bytes: &[u8], to_head: bool) -> Result<Vec<Message>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (line, mut fields, rest) = head(bytes)?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3));
        let status = status.filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
        let status = status.ok_or_else(|| format!("no status line: {line:?}"))?;
        let bodiless = to_head || status.starts_with('1') || matches!(status, "204" | "304");
        let start = status.to_owned();
        let body;
        (body, bytes) = match framing(&fields)? {
            Some(Framing::Chunked) if status.starts_with('1') || status == "204" => {
                return Err(format!("{status} with a coding"));
            }
            _ if bodiless => (Vec::new(), rest),
            Some(Framing::Length(n)) => {
                let (body, rest) = rest.split_at_checked(n).ok_or("a short body")?;
                (body.to_vec(), rest)
            }
            Some(Framing::Chunked) => chunks(rest, &mut fields)?,
            // Nobody would know where it ends.
            None => return Err("an answer without a length".into()),
        };
        all.push(Message { start, fields, body });
    }
    Ok(all)
}

enum Framing {
    Length(usize),
    Chunked,
}

type Fields = Vec<(String, String)>;

/// The first line, the fields with their names in lower case, and what follows.
fn head(bytes: &[u8]) -> Result<(String, Fields, &[u8]), String> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or("a head without an end")?;
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    let head = plain(head)?;
    let mut lines = head.split("\r\n");
    let first = lines.next().ok_or("no first line")?.to_owned();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("no field: {line:?}"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("no field name: {name:?}"));
        }
        if name != "X-Request-Start" {
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    Ok((first, fields, rest))
}

/// Bytes as text in which CR and LF come together or not at all, and nothing else is a control
/// character. Bytes above 127 pass, whatever they mean.
fn plain(bytes: &[u8]) -> Result<String, String> {
    for (at, byte) in bytes.iter().enumerate() {
        let good = match byte {
            b'\r' => bytes.get(at + 1) == Some(&b'\n'),
            b'\n' => at > 0 && bytes[at - 1] == b'\r',
            b'\t' => true,
            byte => *byte >= b' ' && *byte != 0x7f,
        };
        if !good {
            return Err(format!("byte {byte:#04x} in a head"));
        }
    }
    Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
}

fn named<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
}

fn framing(fields: &Fields) -> Result<Option<Framing>, String> {
    match (&named(fields, "content-length")[..], &named(fields, "transfer-encoding")[..]) {
        ([], []) => Ok(None),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Some(Framing::Length(length.parse().map_err(|_| "a long length")?)))
        }
        ([], ["chunked"]) => Ok(Some(Framing::Chunked)),
        (lengths, codings) => Err(format!("lengths {lengths:?}, codings {codings:?}")),
    }
}

/// The data of a chunked body without extensions, and what follows it. The trailer section goes to
/// `fields`.
fn chunks<'a>(mut bytes: &'a [u8], fields: &mut Fields) -> Result<(Vec<u8>, &'a [u8]), String> {
    let mut data = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").ok_or("no size")?;
        let digits = std::str::from_utf8(&bytes[..end]).map_err(|_| "no size")?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("no size: {digits:?}"));
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| "a long size")?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Ok((data, trailers(bytes, fields)?));
        }
        let (chunk, rest) = bytes.split_at_checked(size).ok_or("a short chunk")?;
        data.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n").ok_or("no end of a chunk")?;
    }
}

fn trailers<'a>(bytes: &'a [u8], fields: &mut Fields) -> Result<&'a [u8], String> {
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        return Ok(rest);
    }
    // A head is a line and fields; a trailer section has only fields.
    let with_line = [b"x\r\n", bytes].concat();
    let (_, section, rest) = head(&with_line)?;
    for bad in ["content-length", "transfer-encoding", "host", "connection"] {
        if !named(&section, bad).is_empty() {
            return Err(format!("{bad} in a trailer"));
        }
    }
    fields.extend(section);
    Ok(&bytes[bytes.len() - rest.len()..])
}

/// The data of a whole chunked body, extensions allowed.
pub(super) fn lenient_chunks(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).ok();
        // Extensions may be in any encoding.
        let digits = bytes.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&bytes[..digits]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if line.is_some_and(|line| {
            line.len() > digits && !line[digits..].starts_with([';', ' ', '\t'])
        }) {
            return None;
        }
        bytes = &bytes[end + 2..];
        if size == 0 {
            let whole = bytes == b"\r\n" || bytes.ends_with(b"\r\n\r\n");
            return whole.then_some(data);
        }
        data.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
