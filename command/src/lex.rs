//! Text to words and operators, one character after the other and none of them twice. It follows bash where it follows, and
//! stops at the first thing that is not literal.

use crate::show::is_deceptive;

/// Why a command is not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear {
    /// NUL, carriage return or another control character.
    #[error("it holds a control character")]
    Control,
    /// A character that is not seen, or looks like another.
    #[error("it holds a character that cannot be seen or looks like another")]
    Deceptive,
    /// Over [`crate::MAX_COMMAND`].
    #[error("it is longer than 64 KiB")]
    Long,
    /// Over [`crate::MAX_PROGRAMS`].
    #[error("it starts more than 64 programs")]
    Many,
    /// A quote that is not closed.
    #[error("a quote is not closed")]
    Quote,
    /// A backslash with nothing behind it.
    #[error("it ends in a backslash")]
    Backslash,
    /// A variable, an arithmetic or a command substitution, or a quote that a dollar begins.
    #[error("it expands something ($)")]
    Dollar,
    /// A command in backquotes.
    #[error("it substitutes a command (`)")]
    Backquote,
    /// A subshell, a function, a process substitution.
    #[error("it holds a parenthesis of the shell")]
    Parenthesis,
    /// Alternatives or a group.
    #[error("it holds a brace of the shell")]
    Brace,
    /// A home directory.
    #[error("it expands a home directory (~)")]
    Tilde,
    /// A set of characters.
    #[error("it holds a bracket pattern")]
    Bracket,
    /// `&`.
    #[error("it starts something in the background (&)")]
    Background,
    /// A redirection that is not to or from a plainly named file.
    #[error("it redirects in a way that is not followed")]
    Redirect,
    /// A here-document or here-string.
    #[error("it holds a here-document")]
    HereDocument,
    /// An operator where a command should be, or nothing after one.
    #[error("a command is missing beside an operator")]
    Missing,
    /// A word that begins a compound command.
    #[error("it uses the shell's grammar of loops, conditions or functions")]
    Reserved,
    /// `NAME=value`.
    #[error("it sets a variable")]
    Assignment,
    /// A command of the shell itself.
    #[error("it uses a command of the shell itself that changes what follows")]
    Builtin,
    /// A program's name that is no plain name or path.
    #[error("a program is not plainly named")]
    Program,
    /// Nothing.
    #[error("it is empty")]
    Empty,
}

impl Unclear {
    /// True where a person is not even asked: nothing that is meant looks like this.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Control | Self::Deceptive | Self::Long | Self::Many | Self::Empty)
    }
}

/// A word, its quotes gone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// Where in `text` a `*` or `?` stands that was not quoted.
    pub wild: Vec<usize>,
    /// Where in `text` the first quote or backslash stood.
    pub quoted_from: Option<usize>,
}

/// Where a descriptor leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// `<`
    Read,
    /// `>`
    Write,
    /// `>>`
    Append,
}

/// What a command is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Token {
    /// A word.
    Word(Word),
    /// `|`
    Pipe,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `;`
    Semicolon,
    /// A line's end.
    Newline,
    /// `2> `, before the word that names the file.
    Redirect(u8, Direction),
    /// `2>&1`
    Duplicate(u8, u8),
}

struct Cursor<'t> {
    chars: std::iter::Peekable<std::str::Chars<'t>>,
    /// Characters taken: what the time is measured by.
    steps: usize,
}

impl Cursor<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn take(&mut self) -> Option<char> {
        self.steps = self.steps.saturating_add(1);
        self.chars.next()
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.take();
        }
        there
    }
}

/// Splits a command.
///
/// # Errors
/// [`Unclear`], at the first thing that is not literal.
pub fn lex(text: &str) -> Result<Vec<Token>, Unclear> {
    lex_counted(text).0
}

/// As [`lex`], with the number of characters that were taken.
pub fn lex_counted(text: &str) -> (Result<Vec<Token>, Unclear>, usize) {
    let mut cursor = Cursor { chars: text.chars().peekable(), steps: 0 };
    let outcome = screen(text).and_then(|()| tokens(&mut cursor));
    (outcome, cursor.steps)
}

fn screen(text: &str) -> Result<(), Unclear> {
    if text.len() > crate::MAX_COMMAND {
        return Err(Unclear::Long);
    }
    // Nothing of ASCII deceives, and most commands are of nothing else.
    if text.is_ascii() {
        let control = text.bytes().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t'));
        return if control { Err(Unclear::Control) } else { Ok(()) };
    }
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            return Err(Unclear::Control);
        }
        if is_deceptive(c) {
            return Err(Unclear::Deceptive);
        }
    }
    Ok(())
}

fn tokens(cursor: &mut Cursor<'_>) -> Result<Vec<Token>, Unclear> {
    let mut tokens = Vec::new();
    while let Some(c) = cursor.peek() {
        match c {
            ' ' | '\t' => drop(cursor.take()),
            '#' => {
                while cursor.peek().is_some_and(|c| c != '\n') {
                    cursor.take();
                }
            }
            '\n' | ';' | '|' | '&' | '<' | '>' => {
                cursor.take();
                tokens.push(operator(c, None, cursor)?);
            }
            _ => {
                let (word, seen) = word(cursor)?;
                let redirects = matches!(cursor.peek(), Some('<' | '>'));
                match descriptor(&word).filter(|_| redirects) {
                    Some(fd) => {
                        let c = cursor.take().unwrap_or_default();
                        tokens.push(operator(c, Some(fd?), cursor)?);
                    }
                    // A line that goes on, with nothing of a word around it, is none.
                    None if seen => tokens.push(Token::Word(word)),
                    None => {}
                }
            }
        }
    }
    Ok(tokens)
}

/// The descriptor that a word of digits is where a redirection follows it.
fn descriptor(word: &Word) -> Option<Result<u8, Unclear>> {
    let digits = !word.text.is_empty() && word.text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && word.quoted_from.is_none();
    plain.then_some(match word.text.as_str() {
        "0" => Ok(0),
        "1" => Ok(1),
        "2" => Ok(2),
        _ => Err(Unclear::Redirect),
    })
}

fn operator(first: char, fd: Option<u8>, cursor: &mut Cursor<'_>) -> Result<Token, Unclear> {
    let next = cursor.peek();
    match (first, next) {
        ('\n', _) => Ok(Token::Newline),
        (';', Some(';' | '&')) => Err(Unclear::Missing),
        (';', _) => Ok(Token::Semicolon),
        ('|', Some('&')) => Err(Unclear::Redirect),
        ('|', _) => Ok(if cursor.take_if('|') { Token::Or } else { Token::Pipe }),
        ('&', Some('>')) => Err(Unclear::Redirect),
        ('&', _) => cursor.take_if('&').then_some(Token::And).ok_or(Unclear::Background),
        ('<', Some('<')) => Err(Unclear::HereDocument),
        ('<' | '>', Some('(')) => Err(Unclear::Parenthesis),
        ('<', Some('&' | '>')) | ('>', Some('|')) => Err(Unclear::Redirect),
        ('<', _) => Ok(Token::Redirect(fd.unwrap_or(0), Direction::Read)),
        ('>', Some('&')) => {
            cursor.take();
            let to = match cursor.take() {
                Some('1') => 1,
                Some('2') => 2,
                _ => return Err(Unclear::Redirect),
            };
            match cursor.peek() {
                None | Some(' ' | '\t' | '\n' | ';' | '|') => Ok(Token::Duplicate(fd.unwrap_or(1), to)),
                Some(_) => Err(Unclear::Redirect),
            }
        }
        _ => {
            let direction = if cursor.take_if('>') { Direction::Append } else { Direction::Write };
            match cursor.peek() {
                Some('|' | '&' | '(') => Err(Unclear::Redirect),
                _ => Ok(Token::Redirect(fd.unwrap_or(1), direction)),
            }
        }
    }
}

/// A word, and whether there was anything of one.
fn word(cursor: &mut Cursor<'_>) -> Result<(Word, bool), Unclear> {
    let mut word = Word::default();
    let mut seen = false;
    // What stands before, where it was not quoted: a tilde expands behind it.
    let mut before = None;
    while let Some(c) = cursor.peek() {
        if matches!(c, ' ' | '\t' | '\n' | ';' | '|' | '&' | '<' | '>') || (c == '#' && !seen) {
            break;
        }
        cursor.take();
        let mut here = Some(c);
        match c {
            '\\' => match cursor.take() {
                None => return Err(Unclear::Backslash),
                // The line goes on.
                Some('\n') => continue,
                Some(c) => {
                    mark(&mut word);
                    word.text.push(c);
                    here = None;
                }
            },
            '\'' => {
                mark(&mut word);
                single(&mut word, cursor)?;
                here = None;
            }
            '"' => {
                mark(&mut word);
                double(&mut word, cursor)?;
                here = None;
            }
            // By itself it is a dollar.
            '$' if matches!(cursor.peek(), None | Some(' ' | '\t' | '\n' | ';' | '|' | '&')) => word.text.push('$'),
            '$' => return Err(Unclear::Dollar),
            '`' => return Err(Unclear::Backquote),
            '(' | ')' => return Err(Unclear::Parenthesis),
            // The pair by itself means nothing to the shell, and much to `find`.
            '{' if cursor.take_if('}') => word.text.push_str("{}"),
            '{' | '}' => return Err(Unclear::Brace),
            '[' => return Err(Unclear::Bracket),
            '~' if !seen || matches!(before, Some('=' | ':')) => return Err(Unclear::Tilde),
            '*' | '?' => {
                word.wild.push(word.text.len());
                word.text.push(c);
            }
            c => word.text.push(c),
        }
        seen = true;
        before = here;
    }
    Ok((word, seen))
}

const fn mark(word: &mut Word) {
    if word.quoted_from.is_none() {
        word.quoted_from = Some(word.text.len());
    }
}

fn single(word: &mut Word, cursor: &mut Cursor<'_>) -> Result<(), Unclear> {
    loop {
        match cursor.take() {
            None => return Err(Unclear::Quote),
            Some('\'') => return Ok(()),
            Some(c) => word.text.push(c),
        }
    }
}

fn double(word: &mut Word, cursor: &mut Cursor<'_>) -> Result<(), Unclear> {
    loop {
        match cursor.take() {
            None => return Err(Unclear::Quote),
            Some('"') => return Ok(()),
            Some('`') => return Err(Unclear::Backquote),
            Some('$') if matches!(cursor.peek(), Some('"' | ' ' | '|')) => word.text.push('$'),
            Some('$') => return Err(Unclear::Dollar),
            Some('\\') => match cursor.take() {
                None => return Err(Unclear::Quote),
                Some('\n') => {}
                Some(c @ ('$' | '`' | '"' | '\\')) => word.text.push(c),
                Some(c) => {
                    word.text.push('\\');
                    word.text.push(c);
                }
            },
            Some(c) => word.text.push(c),
        }
    }
}
