//! Text for a terminal: colours, signs and numbers, and which colours are wanted. Text that came
//! from a cluster is cleaned here, so that no object can control the terminal.

use crate::cli::Color;

/// A colour, or none. Whatever has a colour also has a word or a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Style {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Dim,
    /// A colour that only tells sources apart; the number chooses one of six.
    Source(usize),
}

impl Style {
    /// The number of the colour (ECMA-48 SGR); `None` for the terminal's own.
    fn code(self) -> Option<u8> {
        // Cyan, magenta, blue, and the bright ones of green, cyan and magenta: each can be read on
        // a dark and on a light ground.
        const SOURCES: [u8; 6] = [36, 35, 34, 32, 96, 95];
        match self {
            Self::Plain => None,
            Self::Good => Some(32),
            Self::Warning => Some(33),
            Self::Bad => Some(31),
            Self::Dim => Some(2),
            Self::Source(number) => Some(SOURCES[number % SOURCES.len()]),
        }
    }
}

/// A line in parts, each with its colour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    /// Adds text without a colour.
    pub(crate) fn plain(self, text: impl AsRef<str>) -> Self {
        self.styled(Style::Plain, text)
    }

    /// Adds text. Control characters in it are replaced.
    pub(crate) fn styled(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((style, clean(text.as_ref())));
        self
    }

    /// Adds the part after two spaces, unless it is empty.
    pub(crate) fn cell(self, style: Style, text: impl AsRef<str>) -> Self {
        if text.as_ref().is_empty() {
            return self;
        }
        self.plain("  ").styled(style, text)
    }

    /// The line for a terminal or a file, without spaces at its end.
    pub(crate) fn show(&self, colours: bool) -> String {
        let mut shown = String::new();
        for (style, text) in &self.0 {
            match style.code().filter(|_| colours && !text.is_empty()) {
                Some(code) => {
                    let coloured = format!("\x1b[{code}m{text}\x1b[0m");
                    shown += &coloured;
                }
                None => shown += text,
            }
        }
        shown.truncate(shown.trim_end_matches(' ').len());
        shown
    }
}

/// All lines, each with a newline.
pub(crate) fn page(lines: &[Line], colours: bool) -> String {
    lines.iter().map(|line| line.show(colours) + "\n").collect()
}

/// Replaces control characters by U+FFFD, newlines by a space, and marks that reorder text.
pub(crate) fn clean(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' | '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    };
    text.chars().map(shown).collect()
}

/// What decides about colours and signs, besides the flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) no_color: Option<String>,
    pub(crate) clicolor_force: Option<String>,
    pub(crate) force_color: Option<String>,
    pub(crate) term: Option<String>,
    /// `LC_ALL`, otherwise `LC_CTYPE`, otherwise `LANG`.
    pub(crate) locale: Option<String>,
    /// Whether the stream that is written is a terminal.
    pub(crate) is_terminal: bool,
}

impl Surroundings {
    /// The surroundings of this process, for stdout.
    pub(crate) fn of_stdout() -> Self {
        use std::io::IsTerminal;
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            no_color: read("NO_COLOR"),
            clicolor_force: read("CLICOLOR_FORCE"),
            force_color: read("FORCE_COLOR"),
            term: read("TERM"),
            locale: read("LC_ALL")
                .or_else(|| read("LC_CTYPE"))
                .or_else(|| read("LANG")),
            is_terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Whether colours are used: the flag decides, then `NO_COLOR`, `CLICOLOR_FORCE`,
    /// `FORCE_COLOR`,
    /// TERM=dumb, then whether it is a terminal.
    pub(crate) fn colours(&self, flag: Color) -> bool {
        let is_on = |value: &Option<String>| value.as_ref().is_some_and(|value| value != "0");
        match flag {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if self.no_color.is_some() => false,
            Color::Auto if is_on(&self.clicolor_force) || is_on(&self.force_color) => true,
            Color::Auto if self.term.as_deref() == Some("dumb") => false,
            Color::Auto => self.is_terminal,
        }
    }

    /// Whether branches of a tree may be drawn with characters outside of ASCII. Only a terminal
    /// with another locale cannot show them; files and pipes get UTF-8.
    pub(crate) fn is_unicode(&self) -> bool {
        let is_utf8 = |locale: &String| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        };
        !self.is_terminal || self.locale.as_ref().is_some_and(is_utf8)
    }
}

/// A number with commas between thousands, without a fraction from 10 on.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    if value != 0.0 && value < 10.0 {
        let text = format!("{value:.1}");
        return text.strip_suffix(".0").map_or(text.clone(), str::to_owned);
    }
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 pod`, `2 pods`.
pub(crate) fn count(number: usize, one: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{number} {one}s")
    }
}

/// A span of time in its two largest units, as kubectl shows ages.
pub(crate) fn age(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..120 => format!("{whole}s"),
        120..7_200 => format!("{}m", whole / 60),
        7_200..172_800 => format!("{}h", whole / 3_600),
        _ => format!("{}d", whole / 86_400),
    }
}

/// An amount of memory.
pub(crate) fn bytes(amount: u64) -> String {
    let mebibytes = amount as f64 / f64::from(1 << 20);
    if mebibytes < 10.0 {
        format!("{mebibytes:.1}Mi")
    } else if mebibytes < 10_240.0 {
        format!("{mebibytes:.0}Mi")
    } else {
        format!("{:.1}Gi", mebibytes / 1_024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_decides_about_colours_then_the_environment_then_the_terminal() {
        let set = |text: &str| Some(text.to_owned());
        let terminal = Surroundings {
            is_terminal: true,
            ..Surroundings::default()
        };
        assert!(terminal.colours(Color::Auto));
        assert!(!Surroundings::default().colours(Color::Auto));
        assert!(Surroundings::default().colours(Color::Always));
        assert!(!terminal.colours(Color::Never));
        let forced = Surroundings {
            clicolor_force: set("1"),
            ..Surroundings::default()
        };
        assert!(forced.colours(Color::Auto));
        let both = Surroundings {
            no_color: set("1"),
            ..forced
        };
        assert!(!both.colours(Color::Auto));
        assert!(both.colours(Color::Always));
        let dumb = Surroundings {
            term: set("dumb"),
            ..terminal
        };
        assert!(!dumb.colours(Color::Auto));
    }

    #[test]
    fn no_text_of_a_cluster_controls_the_terminal() {
        let line = Line::default().styled(Style::Bad, "a\x1b[2Jb\r\nc\u{202e}d");
        assert_eq!(line.show(false), "a\u{fffd}[2Jb\u{fffd} c\u{fffd}d");
        assert!(line.show(true).starts_with("\x1b[31ma"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.02, 1.0, 9.94, 155.4, 1240.0, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0", "1", "9.9", "155", "1,240", "1,234,567"]);
        assert_eq!(
            [5.0, 119.0, 125.0, 7300.0, 200_000.0].map(age),
            ["5s", "119s", "2m", "2h", "2d"]
        );
        assert_eq!(
            [1 << 20, 212 << 20, 20 << 30].map(bytes),
            ["1.0Mi", "212Mi", "20.0Gi"]
        );
    }
}
