use std::io::Write;

use super::*;

struct Bench {
    _folder: tempfile::TempDir,
    sources: Sources,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources::open(folder.path().join("sources")).unwrap();
    Bench { _folder: folder, sources }
}

/// A header as a hostile client would write it: no check of ours or of the library's.
fn raw(kind: EntryType, path: &[u8], size: u64) -> Header {
    let mut header = plain_header(kind, 0o6755, size, 1);
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_cksum();
    header
}

fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let size = if link { 0 } else { content.len() as u64 };
        let mut header = raw(*kind, path.as_bytes(), size);
        if link {
            header.set_link_name(content).unwrap();
            header.set_cksum();
        }
        tar.append(&header, if link { &b""[..] } else { content.as_bytes() }).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn a_good_archive_becomes_one_clean_tar() {
    let bench = bench();
    let good = archive(&[
        (EntryType::Directory, "./", ""),
        (EntryType::Directory, "./src/", ""),
        (FILE, "./src/a.txt", "hello"),
        (EntryType::Symlink, "./link", "src/a.txt"),
    ]);
    let taken = bench.sources.take(&gzip(&good)[..], "u1").unwrap();
    assert_eq!((taken.files, taken.bytes), (2, 5));
    assert_eq!(bench.sources.take(&good[..], "u2").unwrap().digest, taken.digest, "gzip or not");
    let mut clean = Archive::new(File::open(bench.sources.path(&taken.digest)).unwrap());
    let names: Vec<(String, u32)> = clean
        .entries()
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.path().unwrap().display().to_string(), e.header().mode().unwrap()))
        .collect();
    let expected = [("src".into(), 0o755), ("src/a.txt".into(), 0o755), ("link".into(), 0o777)];
    assert_eq!(names, expected, "and no setuid bit");
}

#[test]
fn hostile_entries_are_refused_by_name_and_leave_nothing() {
    type Case<'a> = (&'a [(EntryType, &'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 10] = [
        (&[(FILE, "/etc/passwd", "x")], "\"/etc/passwd\" is an absolute path"),
        (&[(FILE, "a/../../b", "x")], "climbs out"),
        (&[(EntryType::Symlink, "d", "/etc"), (FILE, "d/passwd", "x")], "passes through the link"),
        (&[(EntryType::Link, "h", "/etc/shadow")], "hard link"),
        (&[(EntryType::Fifo, "Dockerfile", "")], "\"Dockerfile\" is a FIFO"),
        (&[(EntryType::Char, "null", "")], "device"),
        (&[(EntryType::GNUSparse, "big", "")], ""),
        (&[(FILE, "a", "1"), (FILE, "./a", "2")], "\"a\" appears twice"),
        (&[(FILE, "a", "1"), (FILE, "a/b", "2")], "which is a file"),
        (&[(EntryType::Directory, "only", "")], "holds no files"),
    ];
    for (entries, words) in cases {
        let bench = bench();
        let error = bench.sources.take(&archive(entries)[..], "u").err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(std::fs::read_dir(&bench.sources.folder).unwrap().count(), 0, "{words}");
    }
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_is_cut() {
    let bench = bench();
    let content = "0123456789abcdef".repeat(100);
    let whole = gzip(&archive(&[(FILE, "a", &content), (FILE, "b", &content)]));
    for cut in 0..whole.len() {
        let error = bench.sources.take(&whole[..cut], "u").err();
        assert!(error.is_some(), "cut at {cut} of {}", whole.len());
    }
    assert!(bench.sources.take(&whole[..], "u").is_ok());
}

#[test]
fn a_file_that_claims_to_be_huge_is_refused_before_it_is_read() {
    let bench = bench();
    let header = raw(FILE, b"huge", 3 << 30);
    let error = bench.sources.take(&header.as_bytes()[..], "u").err().unwrap();
    assert!(matches!(error, SourceError::Refused(Refused::TooLarge(_))), "{error}");
}

#[test]
fn long_names_survive_and_parts_are_cleared() {
    let bench = bench();
    let name = format!("{}/file.txt", "d".repeat(150));
    let mut tar = Builder::new(Vec::new());
    let mut header = plain_header(FILE, 0o644, 2, 1);
    tar.append_data(&mut header, &name, &b"hi"[..]).unwrap();
    let taken = bench.sources.take(&tar.into_inner().unwrap()[..], "u").unwrap();
    let mut clean = Archive::new(File::open(bench.sources.path(&taken.digest)).unwrap());
    let entry = clean.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().display().to_string(), name);

    std::fs::write(bench.sources.folder.join("x.part"), "half").unwrap();
    let again = Sources::open(bench.sources.folder.clone()).unwrap();
    assert!(!again.folder.join("x.part").exists());
    assert!(again.has(&taken.digest));
    again.remove(&taken.digest).unwrap();
    again.remove(&taken.digest).unwrap();
    assert!(!again.has(&taken.digest));
}

/// Counts what is read of it.
struct Counted<R>(R, std::rc::Rc<std::cell::Cell<u64>>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.set(self.1.get() + n as u64);
        // Whoever reads so much of it keeps it in memory.
        assert!(self.1.get() < 16 << 20, "it is read to no end");
        Ok(n)
    }
}

#[test]
fn what_describes_an_entry_is_not_read_to_no_end() {
    let bench = bench();
    for kind in [b'L', b'K', b'x', b'g', b'5'] {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..4].copy_from_slice(b"name");
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().chain(std::io::repeat(b'a'));
        let read = std::rc::Rc::new(std::cell::Cell::new(0));
        let refused = bench.sources.take(Counted(endless, read.clone()), "u").err().unwrap();
        assert!(matches!(refused, SourceError::Damaged(_)), "{refused}");
        assert!(read.get() < 1 << 20, "{} bytes of a {:?}", read.get(), kind as char);
    }
}

#[test]
fn links_are_as_long_as_paths_and_a_file_has_a_name() {
    let bench = bench();
    let mut tar = Builder::new(Vec::new());
    let mut header = plain_header(EntryType::Symlink, 0o777, 0, 0);
    tar.append_link(&mut header, "long", "x".repeat(MAX_PATH + 1)).unwrap();
    let long = tar.into_inner().unwrap();
    for bad in [long, archive(&[(FILE, "./", "x")])] {
        let refused = bench.sources.take(&bad[..], "u").err().unwrap();
        assert!(matches!(refused, SourceError::Refused(Refused::NotAPath(_))), "{refused}");
    }
    let here = archive(&[(EntryType::Symlink, "here", "."), (FILE, "f", "x")]);
    assert_eq!(bench.sources.take(&here[..], "u").unwrap().files, 2);
}
