//! How commands print: lines, tables that fit their content, and amounts that can be read.

use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Writes a line to standard output. Unlike `println!` it does not panic when nobody reads any more.
///
/// # Errors
/// The system's.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
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
}

impl<const N: usize> Table<N> {
    /// A heading that starts with `>` belongs to a column of numbers, set to the right.
    pub(super) fn new(headings: [&str; N]) -> Table<N> {
        let right = headings.map(|heading| heading.starts_with('>'));
        Table { rows: vec![headings.map(|heading| heading.trim_start_matches('>').to_owned())], right }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// The lines, two spaces in, two spaces between columns.
    pub(super) fn render(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                // writing to a string cannot fail
                let _ = if right { write!(line, "  {cell:>width$}") } else { write!(line, "  {cell:<width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.pop();
        text
    }
}

/// Breaks a text at spaces into lines of at most `width` characters; a longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
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
    use super::{Table, amount, count, wrap};

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
}
