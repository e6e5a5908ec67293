//! Columns for people.

/// Lines of `rows` under `head`, columns as wide as their widest cell, two spaces between.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[String; N]| {
        let mut one = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            one.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(one.trim_end());
        text.push('\n');
    };
    line(&head.map(str::to_owned));
    rows.iter().for_each(&mut line);
    text
}

/// `name: value` lines, values aligned.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{:<width$}  {value}\n", format!("{name}:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let text = table(["NAME", "SIZE"], &[["a".into(), "1".into()], ["longer".into(), String::new()]]);
        assert_eq!(text, "NAME    SIZE\na       1\nlonger\n");
    }
}
