//! How commands print: lines, tables that fit their content and their terminal, and amounts that can be read.
//!
//! Always holds: nobody reading any more is an error or nothing, never a panic; text of others passes [`plain`] before it is
//! shown.

use std::io::{self, Write as _};

use console::Term;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What everything is laid out for where there is no terminal to ask.
pub(super) const USUAL_WIDTH: usize = 80;
/// No elastic column becomes narrower than this.
const NARROWEST: usize = 6;

/// Writes a line to standard output. Unlike `println!` it does not panic when nobody reads any more.
///
/// # Errors
/// The system's.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// Writes a line to standard error: progress, advice, warnings. It does not matter whether anybody reads it.
pub(super) fn aside(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
}

/// Prints a JSON document in one line. Characters that could steer a terminal are escaped, which JSON allows in texts, and
/// they can be nowhere else.
///
/// # Errors
/// The system's.
pub(super) fn json(value: &Value) -> io::Result<()> {
    line(&escaped(&value.to_string()))
}

fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // all of them lie in the first plane
        if steers(c) { text.push_str(&format!("\\u{:04x}", u32::from(c))) } else { text.push(c) }
    }
    text
}

/// A text of somebody else as one line that cannot steer a terminal: control characters become spaces, what turns the
/// direction of reading or has no shape is left out.
pub(super) fn plain(text: &str) -> String {
    let shown = text.chars().filter_map(|c| match c {
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => Some(' '),
        c if steers(c) => None,
        c => Some(c),
    });
    shown.collect::<String>().trim().to_owned()
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// How many columns standard output has; the usual ones where it is no terminal.
pub(super) fn width() -> usize {
    columns(&Term::stdout())
}

/// How many columns a terminal has.
pub(super) fn columns(term: &Term) -> usize {
    let size = if term.is_term() { term.size_checked() } else { None };
    size.map_or(USUAL_WIDTH, |(_, columns)| usize::from(columns)).max(20)
}

/// A text cut to at most `width` columns, with an ellipsis where it was cut.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// A number of bytes that can be read: "812 B", "3.4 MB".
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let (mut value, mut unit) = (number as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time that can be read: "42 s", "3 min 05 s", "2 h 07 min".
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// An amount with a comma between thousands.
pub(super) fn amount(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

/// "1 video", "3 videos".
pub(super) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", amount(i64::try_from(number).unwrap_or(i64::MAX)))
}

/// Rows under a heading, each column as wide as its widest cell.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    right: [bool; N],
    elastic: [bool; N],
}

impl<const N: usize> Table<N> {
    /// A heading that starts with `>` belongs to a column of numbers, set to the right; one that starts with `~` to a
    /// column whose cells are cut when the table is wider than it may be.
    pub(super) fn new(headings: [&str; N]) -> Table<N> {
        Table {
            rows: vec![headings.map(|heading| heading.trim_start_matches(['>', '~']).to_owned())],
            right: headings.map(|heading| heading.starts_with('>')),
            elastic: headings.map(|heading| heading.starts_with('~')),
        }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The lines, two spaces in, two spaces between columns.
    pub(super) fn render(&self) -> String {
        self.render_within(usize::MAX)
    }

    /// The lines within so many columns, as far as elastic ones can give way.
    pub(super) fn render_within(&self, width: usize) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                let cell = fit(cell, width);
                let space = " ".repeat(width - cell.width());
                line.push_str("  ");
                line.push_str(&if right { space + &cell } else { cell + &space });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.pop();
        text
    }

    fn widths(&self, limit: usize) -> [usize; N] {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        // the widest gives way first
        while widths.iter().map(|width| width + 2).sum::<usize>() > limit {
            let gives = (0..N).filter(|at| self.elastic[*at] && widths[*at] > NARROWEST).max_by_key(|at| widths[*at]);
            match gives {
                Some(at) => widths[at] -= 1,
                None => break,
            }
        }
        widths
    }
}

/// Breaks a text at spaces into lines of at most `width` characters; a longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::{Table, amount, bytes, count, duration, escaped, fit, plain, wrap};

    #[test]
    fn an_amount_has_a_comma_between_thousands() {
        let shown = [0, 61, 999, 1_000, 625_000, -4_424, 12_345_678].map(amount);
        assert_eq!(shown, ["0", "61", "999", "1,000", "625,000", "-4,424", "12,345,678"]);
        assert_eq!(amount(i64::MIN), "-9,223,372,036,854,775,808");
        assert_eq!([count(1, "video"), count(1_200, "video")], ["1 video", "1,200 videos"]);
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_ends_no_line_with_spaces() {
        let mut table = Table::new(["act", ">amount", "why"]);
        table.row(["freeze".to_owned(), "4,424".to_owned(), "admitted".to_owned()]);
        table.row(["refund".to_owned(), "61".to_owned(), String::new()]);
        assert_eq!(table.render(), "  act     amount  why\n  freeze   4,424  admitted\n  refund      61");
    }

    #[test]
    fn a_wrapped_text_keeps_every_word() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensible it is", 4), ["incomprehensible", "it", "is"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn a_table_gives_way_where_it_may() {
        let mut table = Table::new(["~who", ">amount", "~why"]);
        table.row(["絵".repeat(30), "61".to_owned(), "a reason that is too long for this".to_owned()]);
        for line in table.render_within(40).lines() {
            assert!(line.width() <= 40, "{line}");
        }
        assert!(table.render_within(40).contains("絵…") && table.render().contains("for this"));
        assert!(table.render_within(1).contains("61"), "what is not elastic stays whole");
    }

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        let hostile = "fox\u{1b}]0;owned\u{7}\r\n\u{9b}31m \u{202e}gnp\u{feff}";
        let shown = plain(hostile);
        assert_eq!(shown, "fox ]0;owned    31m gnp");
        let json = escaped(&serde_json::json!({ "x": hostile }).to_string());
        assert!(!json.chars().any(|c| c.is_control() || c == '\u{202e}'), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["x"], hostile);
    }

    #[test]
    fn sizes_and_times_are_told_in_their_natural_unit() {
        assert_eq!([0, 999, 1_000, 3_449_000, 999_960_000].map(bytes), ["0 B", "999 B", "1.0 kB", "3.4 MB", "1.0 GB"]);
        let times = [0, 59, 65, 7_620, 100_000].map(duration);
        assert_eq!(times, ["0 s", "59 s", "1 min 05 s", "2 h 07 min", "1 d 03 h"]);
        assert_eq!([fit("fox", 3), fit("foxes", 3), fit("絵絵", 3)], ["fox", "fo…", "絵…"]);
    }
}
