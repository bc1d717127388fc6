//! The live screen of `--watch`: drawn anew each second, gone without a trace when it ends.

use std::io::{self, IsTerminal, Read, Stdout, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::terminal::{
    self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{execute, queue};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::{Exit, complain};

/// What Ctrl-C sends to a raw terminal.
const CTRL_C: u8 = 3;

/// What ends the wait for the next look.
enum Event {
    Resized,
    End,
}

/// Shows `first`, then what `look` says every so often, until q or Ctrl-C or a signal ends it.
fn watch(every: Duration, first: String, mut look: impl FnMut() -> String) -> io::Result<()> {
    let (sender, events) = mpsc::channel();
    listen(sender)?;
    let mut screen = Screen::open()?;
    let mut text = first;
    let mut next = Instant::now() + every;
    loop {
        screen.draw(&text)?;
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::Resized) => {}
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                text = look();
                next = Instant::now() + every;
            }
        }
    }
}

/// Prints what `look` says; with `--watch` goes on doing so: live on a terminal, one text behind the
/// other elsewhere.
///
/// # Errors
/// What the first look, or without a terminal a later one, could not find out.
pub(super) fn print<E>(
    every: Option<Duration>,
    mut look: impl FnMut() -> Result<String, E>,
    say: impl Fn(E) -> String,
) -> Result<io::Result<()>, E> {
    let first = look()?;
    let stdout = io::stdout();
    if let Some(every) = every
        && stdout.is_terminal()
    {
        return Ok(watch(every, first, || look().unwrap_or_else(&say)));
    }
    let mut text = first;
    loop {
        let mut out = stdout.lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        // A reader that has gone away has seen enough.
        let (Some(every), Ok(())) = (every, written) else {
            return Ok(Ok(()));
        };
        drop(out);
        std::thread::sleep(every);
        text = look()?;
    }
}

/// The terminal could not be drawn on.
pub(super) fn unusable(error: &io::Error) -> Exit {
    complain(format_args!("hopend: the terminal can't be used: {error}"));
    Exit::Unavailable
}

/// Both threads wait for the rest of the process's life.
fn listen(sender: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGINT, SIGHUP])?;
    let keys = sender.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGWINCH => Event::Resized,
                _ => Event::End,
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let pressed = io::stdin().lock().bytes().map_while(Result::ok);
        for key in pressed {
            if matches!(key, b'q' | b'Q' | CTRL_C) && keys.send(Event::End).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The alternate screen of the terminal, given back when dropped.
struct Screen {
    out: Stdout,
    /// Keys come one by one, and Ctrl-C is one of them.
    raw: bool,
}

impl Screen {
    fn open() -> io::Result<Self> {
        // Where the keys are not this program's to read, Ctrl-C has to stay a signal.
        let raw = io::stdin().is_terminal();
        if raw {
            enable_raw_mode()?;
        }
        let mut screen = Self {
            out: io::stdout(),
            raw,
        };
        execute!(screen.out, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    fn draw(&mut self, text: &str) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        for (row, line) in (0..height).zip(fit(text, width.into(), height.into())) {
            queue!(self.out, MoveTo(0, row))?;
            self.out.write_all(line.as_bytes())?;
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown))?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = execute!(self.out, Show, LeaveAlternateScreen);
        if self.raw {
            let _ = disable_raw_mode();
        }
    }
}

/// As much of a text as fits; one column stays free, as a terminal may wrap behind a full line.
fn fit(text: &str, width: usize, height: usize) -> Vec<String> {
    let cut = |line: &str| line.chars().take(width.saturating_sub(1)).collect();
    let lines = text.lines().count();
    if lines <= height {
        return text.lines().map(cut).collect();
    }
    let shown = height.saturating_sub(1);
    let mut fitted: Vec<String> = text.lines().take(shown).map(cut).collect();
    fitted.push(cut(&format!("… {} more lines", lines - shown)));
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_the_screen_and_the_rest_is_counted() {
        assert_eq!(fit("abcdef\nzoë", 4, 3), ["abc", "zoë"]);
        assert_eq!(fit("a\nb\nc\nd", 80, 3), ["a", "b", "… 2 more lines"]);
        assert_eq!(fit("a\nb", 80, 2), ["a", "b"]);
        assert_eq!(fit("a\nb", 0, 0), [""]);
    }
}
