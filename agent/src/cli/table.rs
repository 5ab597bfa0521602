//! Plain aligned tables.

/// Between two columns.
const GAP: &str = "  ";

/// Rows of text under a heading, each column as wide as its widest cell. Nothing is cut off: what may be
/// long goes into the last column.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a heading that begins with `>` stands over numbers, flush right.
    pub(crate) fn new<const N: usize>(columns: [&'static str; N]) -> Self {
        Self {
            heading: columns.iter().map(|c| c.trim_start_matches('>')).collect(),
            right: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing at its end stay empty.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert!(N <= self.heading.len());
        self.rows.push(cells.into());
    }

    /// Whether there is no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line after `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let heading: Vec<String> = self.heading.iter().map(ToString::to_string).collect();
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                self.rows
                    .iter()
                    .chain([&heading])
                    .filter_map(|row| row.get(column))
                    .map(|cell| width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in [&heading].into_iter().chain(&self.rows) {
            let mut line = String::from(indent);
            for (column, width) in widths.iter().enumerate() {
                if column > 0 {
                    line.push_str(GAP);
                }
                let cell = row.get(column).map_or("", String::as_str);
                pad(&mut line, cell, *width, self.right[column]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn pad(line: &mut String, cell: &str, to: usize, right: bool) {
    let blanks = " ".repeat(to.saturating_sub(width(cell)));
    if right {
        line.push_str(&blanks);
        line.push_str(cell);
    } else {
        line.push_str(cell);
        line.push_str(&blanks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let mut table = Table::new(["NAME", ">COUNT", "NOTE"]);
        table.row(["pump".into(), "7".into(), "µs".into()]);
        table.row(["a-long-name".into(), "12345".into(), String::new()]);
        table.row(["short".into()]);
        assert_eq!(
            table.render("  "),
            "  NAME         COUNT  NOTE\n  pump             7  µs\n  a-long-name  12345\n  short\n"
        );
    }
}
