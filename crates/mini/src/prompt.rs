//! Questions to the user. Without a terminal nothing is asked.

use std::io::{self, BufRead, IsTerminal, Read};

use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::system;

/// Asks before something is destroyed: the user types `expected`. `yes` is `--yes`.
pub(crate) fn confirm(out: &Output, what: &str, expected: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what} needs a confirmation, and this is no terminal"
        ))
        .hint("pass --yes if you mean it"));
    }
    out.ask(&format!("{what} cannot be undone. Type {expected} to go on:"));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|e| Failure::io("cannot read stdin", &e))?;
    if line.trim() == expected {
        Ok(())
    } else {
        Err(Failure::failed("not confirmed; nothing was changed"))
    }
}

/// A secret: typed without an echo, or the first line of stdin where that is no terminal.
pub(crate) fn secret(out: &Output, question: &str) -> Result<String, Failure> {
    let text = if io::stdin().is_terminal() {
        let typed = typed(out, question);
        out.say("");
        typed?
    } else {
        let mut line = String::new();
        let read = io::stdin().lock().take(1 << 16).read_line(&mut line);
        read.map_err(|e| Failure::io("cannot read stdin", &e))?;
        line
    };
    match text.trim() {
        "" => Err(Failure::usage("no token was given")
            .hint("`minid token create --name NAME` on the server prints a new one")),
        text => Ok(text.to_owned()),
    }
}

/// Reads a line key by key: signals are off too, so that Ctrl-C cannot leave the echo off.
fn typed(out: &Output, question: &str) -> Result<String, Failure> {
    let failed = |e: io::Error| Failure::io("cannot set the terminal", &e);
    // Before the question: what answers it at once is unseen too.
    let before = system::silence_terminal().map_err(failed)?;
    out.ask(question);
    let line = keys(&mut io::stdin().lock());
    before.restore().map_err(failed)?;
    line
}

fn keys(input: &mut impl Read) -> Result<String, Failure> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CTRL_U: u8 = 21;
    const DELETE: u8 = 127;
    let mut line = Vec::new();
    let mut key = [0];
    while input.read(&mut key).map_err(|e| Failure::io("cannot read the terminal", &e))? == 1 {
        match key[0] {
            b'\n' | b'\r' | CTRL_D => break,
            CTRL_C => return Err(Failure::new(Kind::Interrupted, "")),
            BACKSPACE | DELETE => drop(line.pop()),
            CTRL_U => line.clear(),
            byte => line.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_the_line_and_ctrl_c_leaves_it() {
        assert_eq!(keys(&mut &b"wrong\x15mini_x\x7fy\rrest"[..]).unwrap(), "mini_y");
        assert_eq!(keys(&mut &b"abc\x03"[..]).unwrap_err().kind, Kind::Interrupted);
    }
}
