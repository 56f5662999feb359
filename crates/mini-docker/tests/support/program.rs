//! The program in the tests' images; what its words mean stands in
//! `mini_core::testing::conformance`, and below for the rest.

use std::io::{Read, Write};
use std::net::TcpListener;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = words.first().map_or("", String::as_str);
    match word {
        "exit" => exit(&words[1..]),
        "copy" => {
            let bytes = std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
            std::io::stdout().flush().unwrap();
            eprintln!("{bytes} bytes");
        }
        "size" => {
            for line in std::io::stdin().lines() {
                line.unwrap();
                println!("{}", size());
            }
        }
        "loopback" => serve("127.0.0.1"),
        // Takes memory until it is killed.
        "eat" => {
            let mut eaten = Vec::new();
            loop {
                eaten.push(vec![1_u8; 1 << 20]);
            }
        }
        // One line of that many bytes to stdout, and bytes that are no text to stderr.
        "long" => {
            let length = words[1].parse().unwrap();
            let line = [vec![b'x'; length], b"\n".to_vec()].concat();
            std::io::stdout().write_all(&line).unwrap();
            std::io::stderr().write_all(b"tail without an end").unwrap();
        }
        "count" => {
            let mut out = std::io::stdout().lock();
            for number in 0..words[1].parse().unwrap() {
                writeln!(out, "line {number}").unwrap();
            }
        }
        "cat" => {
            for path in &words[1..] {
                print!("{}", std::fs::read_to_string(path).unwrap());
            }
        }
        "write" => std::fs::write(&words[1], "written").unwrap(),
        "absent" => assert!(!std::path::Path::new(&words[1]).exists(), "it is there"),
        // Until it is killed.
        "wait" => std::thread::park(),
        _ => serve("0.0.0.0"),
    }
}

fn exit(words: &[String]) {
    for line in &words[1..] {
        let mut line = line.clone();
        for (key, value) in std::env::vars() {
            line = line.replace(&format!("${key}"), &value);
        }
        println!("{line}");
    }
    std::process::exit(words[0].parse().unwrap());
}

fn serve(host: &str) {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("{host}:{port}")).unwrap();
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n");
    }
}

/// The size of the terminal that is stdin, rows first.
fn size() -> String {
    const TIOCGWINSZ: u64 = 0x5413;
    unsafe extern "C" {
        fn ioctl(descriptor: i32, request: u64, ...) -> i32;
    }
    let mut size = [0_u16; 4];
    // SAFETY: `struct winsize` is four u16 (ioctl_tty(2)), and nothing else is written.
    if unsafe { ioctl(0, TIOCGWINSZ, size.as_mut_ptr()) } != 0 {
        return "none".to_owned();
    }
    format!("{}x{}", size[0], size[1])
}
