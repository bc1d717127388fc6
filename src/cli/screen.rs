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

/// What a line begins with that tells of something that is down: it is shown in red.
pub(super) const DOWN: &str = "✗ ";

/// What is looked at.
pub(super) trait Shown {
    /// As it is printed where nobody watches, without a line break at the end.
    fn text(&self) -> String;
    /// As lines of a screen.
    fn lines(&self, view: View) -> Vec<String>;
}

/// How somebody looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Characters of a line.
    pub(super) width: usize,
    /// How often the key that sorts was pressed.
    pub(super) order: usize,
}

/// A text as it is, in lines that fit.
impl Shown for String {
    fn text(&self) -> String {
        self.clone()
    }

    fn lines(&self, view: View) -> Vec<String> {
        let cut = |line: &str| line.chars().take(view.width).collect();
        self.as_str().lines().map(cut).collect()
    }
}

/// What ends the wait for the next look.
enum Event {
    Resized,
    Pressed(Key),
    End,
}

/// A key that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Sort,
    End,
}

/// Finds keys in what a terminal sends: some are several bytes.
#[derive(Debug, Default)]
struct Keys {
    /// What has come of such a key.
    begun: Vec<u8>,
}

impl Keys {
    fn push(&mut self, byte: u8) -> Option<Key> {
        self.begun.push(byte);
        let key = match &self.begun[..] {
            b"\x1b" | b"\x1b[" | b"\x1bO" | [0x1b, b'[', b'1' | b'4' | b'5' | b'6'] => return None,
            b"q" | b"Q" | [CTRL_C] | [0x1b, CTRL_C] => Some(Key::End),
            b"s" | b"S" => Some(Key::Sort),
            b"k" | b"\x1b[A" | b"\x1bOA" => Some(Key::Up),
            b"j" | b"\x1b[B" | b"\x1bOB" => Some(Key::Down),
            b"b" | b"\x1b[5~" => Some(Key::PageUp),
            b" " | b"\x1b[6~" => Some(Key::PageDown),
            b"g" | b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" => Some(Key::First),
            b"G" | b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" => Some(Key::Last),
            [0x1b, rest @ ..] if !rest.is_empty() && !matches!(rest[0], b'[' | b'O') => {
                // Escape by itself, and another key behind it.
                self.begun.clear();
                return self.push(byte);
            }
            _ => None,
        };
        self.begun.clear();
        key
    }
}

/// What of the lines is on the screen.
#[derive(Debug, Default)]
struct Position {
    top: usize,
    order: usize,
}

impl Position {
    fn press(&mut self, key: Key, lines: usize, height: usize) {
        let page = height.saturating_sub(2).max(1);
        match key {
            Key::Up => self.top = self.top.saturating_sub(1),
            Key::Down => self.top += 1,
            Key::PageUp => self.top = self.top.saturating_sub(page),
            Key::PageDown => self.top += page,
            Key::First => self.top = 0,
            Key::Last => self.top = lines,
            Key::Sort => self.order += 1,
            Key::End => {}
        }
        self.stay_within(lines, height);
    }

    /// The last line is never further up than at the bottom.
    fn stay_within(&mut self, lines: usize, height: usize) {
        let most = match lines <= height {
            true => 0,
            false => lines - height.saturating_sub(1),
        };
        self.top = self.top.min(most);
    }

    /// The rows of a screen: the last one tells of lines that are not on it.
    fn rows(&mut self, lines: &[String], height: usize) -> Vec<String> {
        self.stay_within(lines.len(), height);
        if lines.len() <= height {
            return lines.to_vec();
        }
        let shown = height.saturating_sub(1);
        let below = lines.len() - self.top - shown;
        let mut rows = lines[self.top..self.top + shown].to_vec();
        let above = match self.top {
            0 => String::new(),
            above => format!(", {above} above"),
        };
        rows.push(format!(
            "… {below} more lines{above} (arrows, PgUp, PgDn; s sorts; q ends)"
        ));
        rows
    }
}

/// Shows `first`, then what `look` says every so often, until q or Ctrl-C or a signal ends it.
fn watch<T: Shown>(every: Duration, first: T, mut look: impl FnMut() -> T) -> io::Result<()> {
    let (sender, events) = mpsc::channel();
    listen(sender)?;
    let mut screen = Screen::open()?;
    let mut shown = first;
    let mut position = Position::default();
    let mut next = Instant::now() + every;
    loop {
        let (width, height) = terminal::size()?;
        let view = View {
            // One column stays free, as a terminal may wrap behind a full line.
            width: usize::from(width).saturating_sub(1),
            order: position.order,
        };
        let lines = shown.lines(view);
        screen.draw(&position.rows(&lines, height.into()), view.width)?;
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Event::Resized) => {}
            Ok(Event::Pressed(Key::End) | Event::End) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(());
            }
            Ok(Event::Pressed(key)) => position.press(key, lines.len(), height.into()),
            Err(RecvTimeoutError::Timeout) => {
                shown = look();
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
pub(super) fn print<T: Shown + From<String>, E>(
    every: Option<Duration>,
    mut look: impl FnMut() -> Result<T, E>,
    say: impl Fn(E) -> String,
) -> Result<io::Result<()>, E> {
    let first = look()?;
    let stdout = io::stdout();
    if let Some(every) = every
        && stdout.is_terminal()
    {
        return Ok(watch(every, first, || {
            look().unwrap_or_else(|error| say(error).into())
        }));
    }
    let mut shown = first;
    loop {
        let mut out = stdout.lock();
        let written = writeln!(out, "{}", shown.text()).and_then(|()| out.flush());
        // A reader that has gone away has seen enough.
        let (Some(every), Ok(())) = (every, written) else {
            return Ok(Ok(()));
        };
        drop(out);
        std::thread::sleep(every);
        shown = look()?;
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
        let mut found = Keys::default();
        let pressed = io::stdin().lock().bytes().map_while(Result::ok);
        for key in pressed.filter_map(|byte| found.push(byte)) {
            if keys.send(Event::Pressed(key)).is_err() {
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
    colours: bool,
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
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        execute!(screen.out, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    fn draw(&mut self, rows: &[String], width: usize) -> io::Result<()> {
        for (row, line) in (0..).zip(rows) {
            let line: String = line.chars().take(width).collect();
            queue!(self.out, MoveTo(0, row))?;
            if self.colours && line.starts_with(DOWN) {
                write!(self.out, "\x1b[31m{line}\x1b[0m")?;
            } else {
                self.out.write_all(line.as_bytes())?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Vec<String> {
        (1..=count).map(|number| number.to_string()).collect()
    }

    #[test]
    fn lines_are_cut_to_the_screen_and_the_rest_is_counted() {
        let view = View { width: 3, order: 0 };
        let text = "abcdef\nzoë".to_owned();
        assert_eq!(Shown::lines(&text, view), ["abc", "zoë"]);
        let mut position = Position::default();
        let rows = position.rows(&numbered(4), 3);
        assert_eq!(rows[..2], ["1", "2"]);
        assert!(rows[2].starts_with("… 2 more lines ("), "{}", rows[2]);
        assert_eq!(position.rows(&numbered(2), 2), ["1", "2"]);
        assert_eq!(position.rows(&[], 0), Vec::<String>::new());
    }

    #[test]
    fn scrolling_ends_at_both_ends() {
        let (lines, height) = (numbered(30), 10);
        let mut position = Position::default();
        let mut press = |keys: &[Key]| {
            for key in keys {
                position.press(*key, lines.len(), height);
            }
            let rows = position.rows(&lines, height);
            assert_eq!(rows.len(), height);
            (rows[0].clone(), rows[8].clone())
        };
        let of = |first: &str, last: &str| (first.to_owned(), last.to_owned());
        assert_eq!(press(&[Key::Up]), of("1", "9"));
        assert_eq!(press(&[Key::Down, Key::Down]), of("3", "11"));
        assert_eq!(press(&[Key::PageDown]), of("11", "19"));
        assert_eq!(press(&[Key::Last]), of("22", "30"));
        assert_eq!(press(&[Key::Down, Key::PageDown]), of("22", "30"));
        assert_eq!(press(&[Key::Up]), of("21", "29"));
        assert_eq!(press(&[Key::PageUp]), of("13", "21"));
        assert_eq!(press(&[Key::First]), of("1", "9"));
        // What became shorter is shown from its end.
        position.press(Key::Last, lines.len(), height);
        let rows = position.rows(&numbered(12), height);
        assert_eq!((&*rows[0], &*rows[8]), ("4", "12"));
        assert!(rows[9].contains("0 more lines, 3 above"), "{}", rows[9]);
    }

    #[test]
    fn keys_are_found_in_what_a_terminal_sends() {
        let mut keys = Keys::default();
        let sent = b"sj\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~x\x1b[C\x1bq";
        let found: Vec<_> = sent.iter().filter_map(|byte| keys.push(*byte)).collect();
        let expected = [
            Key::Sort,
            Key::Down,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::First,
            Key::Last,
            Key::End,
        ];
        assert_eq!(found, expected);
        assert_eq!(Keys::default().push(CTRL_C), Some(Key::End));
    }
}
