//! Choosing between a file and its precompressed siblings.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding that a file may lie beside itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// `name.br` (RFC 7932).
    Brotli,
    /// `name.gz` (RFC 1952).
    Gzip,
}

impl Coding {
    /// All of them, the one that usually is smaller first.
    pub(crate) const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// What is appended to a file's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }

    /// Its name in `Content-Encoding` and `Accept-Encoding`.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// The codings that a request accepts, most wanted first (RFC 9110 section 12.5.3). Equal
/// weights keep the order of [`Coding::ALL`]. One that is wanted less than the plain file is left out.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Coding> {
    let plain = weight(headers, "identity").unwrap_or(0);
    let mut codings: Vec<(u16, Coding)> = Coding::ALL
        .into_iter()
        .filter_map(|coding| {
            let asked = weight(headers, coding.token()).or_else(|| weight(headers, "*"))?;
            (asked > 0 && asked >= plain).then_some((asked, coding))
        })
        .collect();
    codings.sort_by_key(|(asked, _)| std::cmp::Reverse(*asked));
    codings.into_iter().map(|(_, coding)| coding).collect()
}

/// The weight in thousandths that `Accept-Encoding` gives to a token, if it names it.
fn weight(headers: &HeaderMap, token: &str) -> Option<u16> {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(token) {
            return None;
        }
        let quality = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or("1", |(_, value)| value.trim());
        Some(thousandths(quality))
    })
}

/// A quality value (RFC 9110 section 12.4.2) in thousandths; one that cannot be read counts as 0.
fn thousandths(quality: &str) -> u16 {
    match quality.parse::<f32>() {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 0..=1000 first")]
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0..=1000 first")]
        Ok(value) if value.is_finite() => (value.clamp(0.0, 1.0) * 1000.0) as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Vec<Coding> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, value.parse().unwrap());
        accepted(&headers)
    }

    #[test]
    fn weights_decide_and_zero_forbids() {
        use Coding::{Brotli, Gzip};
        assert_eq!(of("gzip, deflate, br, zstd"), [Brotli, Gzip]);
        assert_eq!(of("br;q=0.5, GZIP;q=0.8"), [Gzip, Brotli]);
        assert_eq!(of("br;q=0, *"), [Gzip]);
        assert_eq!(of("*;q=0"), []);
        assert_eq!(of("gzip;q=0.1, identity"), []);
        assert_eq!(of("gzip;q=x"), []);
        assert_eq!(accepted(&HeaderMap::new()), []);
    }
}
