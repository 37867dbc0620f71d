//! A text as a QR code in a terminal, two rows of modules to a line.

use crate::CliError;
use qrcode::{Color, EcLevel, QrCode};

/// Modules of quiet around the code, as the standard wants.
const QUIET: usize = 4;

/// Draws it, dark on light whatever the terminal's colours are: what is drawn is the light.
///
/// # Errors
/// [`CliError`] where the text is longer than a code can hold.
pub fn draw(text: &str) -> Result<String, CliError> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|error| CliError::Failed(format!("the checkpoint does not fit a QR code: {error}")))?;
    let (width, colors) = (code.width(), code.to_colors());
    let side = width + 2 * QUIET;
    let light = |x: usize, y: usize| {
        let (Some(x), Some(y)) = (x.checked_sub(QUIET), y.checked_sub(QUIET)) else { return true };
        x >= width || y >= width || colors.get(y * width + x) != Some(&Color::Dark)
    };
    let mut drawn = String::new();
    for y in (0..side).step_by(2) {
        for x in 0..side {
            drawn.push(match (light(x, y), y + 1 >= side || light(x, y + 1)) {
                (true, true) => '\u{2588}',
                (true, false) => '\u{2580}',
                (false, true) => '\u{2584}',
                (false, false) => ' ',
            });
        }
        drawn.push('\n');
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_square_with_quiet_around_it_and_differs_by_its_text() {
        let drawn = draw("moltbot/0011223344556677/auth-audit\n42\n").unwrap();
        let lines: Vec<_> = drawn.lines().collect();
        let side = lines[0].chars().count();
        assert_eq!(lines.len(), side.div_ceil(2));
        assert!(lines[0].chars().all(|c| c == '\u{2588}') && lines[1].starts_with("\u{2588}\u{2588}\u{2588}\u{2588}"));
        assert_ne!(drawn, draw("moltbot/0011223344556677/auth-audit\n43\n").unwrap());
        assert!(draw(&"x".repeat(4_000)).is_err());
    }
}
