//! The live screen of `--watch`. It uses the terminal's alternate screen, so the terminal looks as
//! before after the screen ends.

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

use super::failure::CommandFailure;
use super::{Exit, colours_permitted};

/// The byte that Ctrl-C sends in raw mode.
const CTRL_C: u8 = 3;

/// The mark at the start of a line about an address that is down. The screen shows such a line in red.
pub(super) const DOWN_MARK: &str = "✗ ";

/// A result that can be printed once, or shown on a live screen.
pub(super) trait Watchable {
    /// The text to print, without a line break at the end.
    fn text(&self) -> String;
    /// The lines to show on a screen. There may be more than fit on it.
    fn lines(&self, view: ScreenView) -> Vec<String>;
}

/// The width of the screen, and the order that the user has chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScreenView {
    /// The longest line, in characters.
    pub(super) width: usize,
    /// How often the user has pressed the key that sorts.
    pub(super) sort_presses: usize,
}

/// Shows the lines of the text, cut to the width of the screen.
impl Watchable for String {
    fn text(&self) -> String {
        self.clone()
    }

    fn lines(&self, view: ScreenView) -> Vec<String> {
        let cut = |line: &str| line.chars().take(view.width).collect();
        self.as_str().lines().map(cut).collect()
    }
}

/// Prints the result of `update`. With an `interval`, repeats that: on a live screen if standard output is
/// a terminal, else one text after another.
///
/// # Errors
/// The first update failed, or the terminal cannot be used. Without a terminal, also if a later update
/// failed. A live screen shows the failure of a later update and goes on.
pub(super) fn print<T: Watchable + From<String>>(
    interval: Option<Duration>,
    mut update: impl FnMut() -> Result<T, CommandFailure>,
) -> Result<(), CommandFailure> {
    let first = update()?;
    let stdout = io::stdout();
    if let Some(interval) = interval
        && stdout.is_terminal()
    {
        let update = || update().unwrap_or_else(|failure| failure.message.into());
        return watch(interval, first, update).map_err(|error| CommandFailure {
            exit: Exit::Unavailable,
            message: format!("the terminal cannot be used: {error}"),
        });
    }
    let mut shown = first;
    loop {
        let mut out = stdout.lock();
        let written = writeln!(out, "{}", shown.text()).and_then(|()| out.flush());
        // A write fails if the reader of a pipe has exited. That ends the command without an error.
        let (Some(interval), Ok(())) = (interval, written) else {
            return Ok(());
        };
        drop(out);
        std::thread::sleep(interval);
        shown = update()?;
    }
}

/// Shows `first`, and a new update each `interval`, until q, Ctrl-C or a signal ends it.
fn watch<T: Watchable>(
    interval: Duration,
    first: T,
    mut update: impl FnMut() -> T,
) -> io::Result<()> {
    let (sender, events) = mpsc::channel();
    start_listeners(sender)?;
    let mut screen = AlternateScreen::open()?;
    let mut shown = first;
    let mut position = ScrollPosition::default();
    let mut next_update = Instant::now() + interval;
    loop {
        let (width, height) = terminal::size()?;
        let view = ScreenView {
            // One column stays free, because some terminals wrap after a full line.
            width: usize::from(width).saturating_sub(1),
            sort_presses: position.sort_presses,
        };
        let lines = shown.lines(view);
        screen.draw(&position.rows(&lines, height.into()), view.width)?;
        match events.recv_timeout(next_update.saturating_duration_since(Instant::now())) {
            Ok(ScreenEvent::Resized) => {}
            Ok(ScreenEvent::Pressed(ScreenKey::Quit) | ScreenEvent::Terminated)
            | Err(RecvTimeoutError::Disconnected) => {
                return Ok(());
            }
            Ok(ScreenEvent::Pressed(key)) => position.press(key, lines.len(), height.into()),
            Err(RecvTimeoutError::Timeout) => {
                shown = update();
                next_update = Instant::now() + interval;
            }
        }
    }
}

/// An event that the screen reacts to before the next update.
enum ScreenEvent {
    Resized,
    Pressed(ScreenKey),
    /// A signal asks the process to end.
    Terminated,
}

/// A key with a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScreenKey {
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Sort,
    Quit,
}

/// Recognises keys in the bytes that a terminal sends. A key may be an escape sequence of several bytes.
#[derive(Debug, Default)]
struct KeyParser {
    /// The start of an escape sequence.
    pending: Vec<u8>,
}

impl KeyParser {
    /// Takes the next byte. Returns the key that it completes, if that key has a function.
    fn push(&mut self, byte: u8) -> Option<ScreenKey> {
        self.pending.push(byte);
        let key = match &self.pending[..] {
            b"\x1b" | b"\x1b[" | b"\x1bO" | [0x1b, b'[', b'1' | b'4' | b'5' | b'6'] => return None,
            b"q" | b"Q" | [CTRL_C] | [0x1b, CTRL_C] => Some(ScreenKey::Quit),
            b"s" | b"S" => Some(ScreenKey::Sort),
            b"k" | b"\x1b[A" | b"\x1bOA" => Some(ScreenKey::Up),
            b"j" | b"\x1b[B" | b"\x1bOB" => Some(ScreenKey::Down),
            b"b" | b"\x1b[5~" => Some(ScreenKey::PageUp),
            b" " | b"\x1b[6~" => Some(ScreenKey::PageDown),
            b"g" | b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" => Some(ScreenKey::Top),
            b"G" | b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" => Some(ScreenKey::Bottom),
            [0x1b, rest @ ..] if !rest.is_empty() && !matches!(rest[0], b'[' | b'O') => {
                // The escape key alone, and another key after it.
                self.pending.clear();
                return self.push(byte);
            }
            _ => None,
        };
        self.pending.clear();
        key
    }
}

/// The part of the lines that is on the screen.
#[derive(Debug, Default)]
struct ScrollPosition {
    /// The index of the line at the top.
    top: usize,
    /// How often the user has pressed the key that sorts.
    sort_presses: usize,
}

impl ScrollPosition {
    /// Moves as the key says. `lines` and `height` are the numbers of lines in all and on the screen.
    fn press(&mut self, key: ScreenKey, lines: usize, height: usize) {
        let page = height.saturating_sub(2).max(1);
        match key {
            ScreenKey::Up => self.top = self.top.saturating_sub(1),
            ScreenKey::Down => self.top += 1,
            ScreenKey::PageUp => self.top = self.top.saturating_sub(page),
            ScreenKey::PageDown => self.top += page,
            ScreenKey::Top => self.top = 0,
            ScreenKey::Bottom => self.top = lines,
            ScreenKey::Sort => self.sort_presses += 1,
            ScreenKey::Quit => {}
        }
        self.clamp(lines, height);
    }

    /// Moves back so that no rows stay empty below the last line. One row shows the number of other lines.
    fn clamp(&mut self, lines: usize, height: usize) {
        let max_top = match lines <= height {
            true => 0,
            false => lines - height.saturating_sub(1),
        };
        self.top = self.top.min(max_top);
    }

    /// The rows of the screen. If not all lines fit, the last row shows how many are above and below.
    fn rows(&mut self, lines: &[String], height: usize) -> Vec<String> {
        self.clamp(lines.len(), height);
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

/// Starts one thread for signals and one for keys. Both run until the process ends.
fn start_listeners(sender: Sender<ScreenEvent>) -> io::Result<()> {
    let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGINT, SIGHUP])?;
    let keys = sender.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGWINCH => ScreenEvent::Resized,
                _ => ScreenEvent::Terminated,
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut parser = KeyParser::default();
        let bytes = io::stdin().lock().bytes().map_while(Result::ok);
        for key in bytes.filter_map(|byte| parser.push(byte)) {
            if keys.send(ScreenEvent::Pressed(key)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The alternate screen of the terminal. Its drop restores the terminal.
struct AlternateScreen {
    out: Stdout,
    /// Whether the terminal is in raw mode: it sends each key at once, and Ctrl-C as a byte.
    raw: bool,
    colours: bool,
}

impl AlternateScreen {
    fn open() -> io::Result<Self> {
        // If standard input is no terminal, hopend reads no keys, and Ctrl-C has to stay a signal.
        let raw = io::stdin().is_terminal();
        if raw {
            enable_raw_mode()?;
        }
        let mut screen = Self {
            out: io::stdout(),
            raw,
            colours: colours_permitted(),
        };
        execute!(screen.out, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    fn draw(&mut self, rows: &[String], width: usize) -> io::Result<()> {
        for (row, line) in (0..).zip(rows) {
            let line: String = line.chars().take(width).collect();
            queue!(self.out, MoveTo(0, row))?;
            if self.colours && line.starts_with(DOWN_MARK) {
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

impl Drop for AlternateScreen {
    fn drop(&mut self) {
        // Fails if the terminal has closed, and then there is nothing to restore.
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
        let view = ScreenView {
            width: 3,
            sort_presses: 0,
        };
        let text = "abcdef\nzoë".to_owned();
        assert_eq!(Watchable::lines(&text, view), ["abc", "zoë"]);
        let mut position = ScrollPosition::default();
        let rows = position.rows(&numbered(4), 3);
        assert_eq!(rows[..2], ["1", "2"]);
        assert!(rows[2].starts_with("… 2 more lines ("), "{}", rows[2]);
        assert_eq!(position.rows(&numbered(2), 2), ["1", "2"]);
        assert_eq!(position.rows(&[], 0), Vec::<String>::new());
    }

    #[test]
    fn scrolling_ends_at_both_ends() {
        let (lines, height) = (numbered(30), 10);
        let mut position = ScrollPosition::default();
        let mut press = |keys: &[ScreenKey]| {
            for key in keys {
                position.press(*key, lines.len(), height);
            }
            let rows = position.rows(&lines, height);
            assert_eq!(rows.len(), height);
            (rows[0].clone(), rows[8].clone())
        };
        let of = |first: &str, last: &str| (first.to_owned(), last.to_owned());
        assert_eq!(press(&[ScreenKey::Up]), of("1", "9"));
        assert_eq!(press(&[ScreenKey::Down, ScreenKey::Down]), of("3", "11"));
        assert_eq!(press(&[ScreenKey::PageDown]), of("11", "19"));
        assert_eq!(press(&[ScreenKey::Bottom]), of("22", "30"));
        assert_eq!(
            press(&[ScreenKey::Down, ScreenKey::PageDown]),
            of("22", "30")
        );
        assert_eq!(press(&[ScreenKey::Up]), of("21", "29"));
        assert_eq!(press(&[ScreenKey::PageUp]), of("13", "21"));
        assert_eq!(press(&[ScreenKey::Top]), of("1", "9"));
        // If the lines become fewer, the position moves up.
        position.press(ScreenKey::Bottom, lines.len(), height);
        let rows = position.rows(&numbered(12), height);
        assert_eq!((&*rows[0], &*rows[8]), ("4", "12"));
        assert!(rows[9].contains("0 more lines, 3 above"), "{}", rows[9]);
    }

    #[test]
    fn keys_are_found_in_what_a_terminal_sends() {
        let mut parser = KeyParser::default();
        let sent = b"sj\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~x\x1b[C\x1bq";
        let found: Vec<_> = sent.iter().filter_map(|byte| parser.push(*byte)).collect();
        let expected = [
            ScreenKey::Sort,
            ScreenKey::Down,
            ScreenKey::Up,
            ScreenKey::Down,
            ScreenKey::PageUp,
            ScreenKey::PageDown,
            ScreenKey::Top,
            ScreenKey::Bottom,
            ScreenKey::Quit,
        ];
        assert_eq!(found, expected);
        assert_eq!(KeyParser::default().push(CTRL_C), Some(ScreenKey::Quit));
    }
}
