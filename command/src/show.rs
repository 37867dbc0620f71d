//! Text for a person's eyes: what could not be seen, or would be seen as something else, is spelled out. Two different
//! commands never look the same: the brackets that mark what is spelled out are themselves spelled out.

/// Spells out what cannot be seen. Line ends are, too: a prompt is one line.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '⟨' || c == '⟩' || c.is_control() || is_deceptive(c) {
            shown.push_str(&format!("⟨U+{:04X}⟩", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// True for characters that are not seen, that reorder what is, or that look like ASCII and are not: format characters
/// (Unicode's Cf), spaces but the plain one, fillers, selectors, full-width forms.
#[must_use]
pub const fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'
        | '\u{891}' | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{2800}' | '\u{3000}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ff01}'..='\u{ff5e}' | '\u{ffa0}' | '\u{ffe0}'..='\u{ffe6}'
        | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(shown: &str) -> String {
        let mut text = String::new();
        let mut rest = shown;
        while let Some((before, after)) = rest.split_once('⟨') {
            let (number, after) = after.split_once('⟩').unwrap();
            text.push_str(before);
            text.push(char::from_u32(u32::from_str_radix(&number[2..], 16).unwrap()).unwrap());
            rest = after;
        }
        text + rest
    }

    proptest! {
        #[test]
        fn shown_text_reads_back_as_what_it_shows_and_hides_nothing(text in "\\PC{0,60}|[\u{200b}-\u{202e}⟨⟩\n\ra-z]{0,40}") {
            let shown = visible(&text);
            prop_assert_eq!(back(&shown), text);
            prop_assert!(shown.chars().all(|c| !c.is_control() && !is_deceptive(c)));
        }
    }

    #[test]
    fn bidi_and_line_ends_are_spelled_out_and_letters_are_not() {
        assert_eq!(visible("rm \u{202e}x\n é"), "rm ⟨U+202E⟩x⟨U+000A⟩ é");
    }
}
