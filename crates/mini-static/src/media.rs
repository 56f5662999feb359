//! What a file's name says: its media type, and how long it may be kept.

use std::ffi::OsStr;
use std::path::Path;

/// The `Content-Type` for a file of this name.
pub(crate) fn content_type(path: &Path) -> &'static str {
    // Apple fetches this one without an extension and wants JSON.
    if path.file_name() == Some(OsStr::new("apple-app-site-association")) {
        return "application/json";
    }
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        // RFC 9239: text/javascript is the one type for both.
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "txt" | "text" | "log" => "text/plain; charset=utf-8",
        "md" | "markdown" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "ics" => "text/calendar; charset=utf-8",
        "vtt" => "text/vtt; charset=utf-8",
        "json" | "map" => "application/json",
        "jsonld" => "application/ld+json",
        "geojson" => "application/geo+json",
        "webmanifest" => "application/manifest+json",
        "xml" => "application/xml",
        "rss" => "application/rss+xml",
        "atom" => "application/atom+xml",
        "xhtml" => "application/xhtml+xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "apng" => "image/apng",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "ogv" => "video/ogg",
        "mov" => "video/quicktime",
        "m3u8" => "application/vnd.apple.mpegurl",
        "ts" => "video/mp2t",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "epub" => "application/epub+zip",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "zst" => "application/zstd",
        "rtf" => "application/rtf",
        "glb" => "model/gltf-binary",
        "gltf" => "model/gltf+json",
        _ => "application/octet-stream",
    }
}

/// The `Cache-Control` for a file of this name.
///
/// Pages are asked about each time, so that a deploy shows at once; a name that carries its
/// content's hash never changes its meaning; the rest may be an hour old.
pub(crate) fn cache_control(path: &Path) -> &'static str {
    if matches!(path.extension().and_then(OsStr::to_str), Some("html" | "htm" | "xhtml")) {
        return "no-cache";
    }
    match path.file_name().and_then(OsStr::to_str) {
        Some(name) if has_content_hash(name) => "public, max-age=31536000, immutable",
        _ => "public, max-age=3600",
    }
}

/// Whether one part of a file's name, as in `app.3f9a1c02.js` or `app-3f9a1c02.js`, is eight or
/// more hex digits. Letters and digits must both occur, so that dates (`20260131`) and words
/// (`defaced`) are not taken for hashes.
fn has_content_hash(name: &str) -> bool {
    name.split(['.', '-', '_']).any(|part| {
        part.len() >= 8
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte.is_ascii_digit())
            && part.bytes().any(|byte| byte.is_ascii_alphabetic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_its_charset_and_unknown_names_are_bytes() {
        assert_eq!(content_type(Path::new("/a/INDEX.HTML")), "text/html; charset=utf-8");
        assert_eq!(content_type(Path::new("/a/app.mjs")), "text/javascript; charset=utf-8");
        assert_eq!(content_type(Path::new("/a/font.woff2")), "font/woff2");
        assert_eq!(content_type(Path::new("/a/LICENSE")), "application/octet-stream");
    }

    #[test]
    fn only_hashed_names_are_immutable() {
        let kept = |name: &str| cache_control(Path::new(name));
        for name in ["app.3f9a1c02.js", "main-0a1b2c3d4e5f.css", "chunk_ab12cd34.js.map"] {
            assert_eq!(kept(name), "public, max-age=31536000, immutable", "{name}");
        }
        for name in ["app.js", "report-20260131.pdf", "defacedd.png", "a1b2c3.js"] {
            assert_eq!(kept(name), "public, max-age=3600", "{name}");
        }
        assert_eq!(kept("page.3f9a1c02.html"), "no-cache");
    }
}
