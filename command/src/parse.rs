//! Words and operators to a list of pipelines of simple commands. Nothing nests, so nothing recurses.

use crate::lex::{Direction, Token, Unclear, Word, lex};

/// How a pipeline hangs on the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Join {
    /// `;`, a line's end, or the first.
    Always,
    /// `&&`
    IfDone,
    /// `||`
    IfFailed,
}

/// A descriptor and where it leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Redirect {
    /// To or from a file.
    File(u8, Direction, Word),
    /// As another descriptor.
    As(u8, u8),
}

/// One program with its arguments.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Simple {
    /// The program's name first.
    pub words: Vec<Word>,
    /// In their order.
    pub redirects: Vec<Redirect>,
}

/// Commands that feed each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pipeline {
    /// How it hangs on the one before.
    pub join: Join,
    /// At least one.
    pub commands: Vec<Simple>,
}

/// Words that are grammar where a command begins.
const RESERVED: [&str; 22] = [
    "!", "[[", "]]", "case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in",
    "select", "then", "time", "until", "while", "{", "}",
];

/// Parses a command.
///
/// # Errors
/// [`Unclear`].
pub fn parse(text: &str) -> Result<Vec<Pipeline>, Unclear> {
    let mut list: Vec<Pipeline> = Vec::new();
    let mut commands = Vec::new();
    let mut current = Simple::default();
    // What a command must follow, where one must.
    let mut join = Join::Always;
    let mut owed = false;
    let mut tokens = lex(text)?.into_iter().peekable();
    let mut programs = 0usize;
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => {
                if current.words.is_empty() {
                    begins(&word)?;
                    programs = programs.saturating_add(1);
                    if programs > crate::MAX_PROGRAMS {
                        return Err(Unclear::Many);
                    }
                }
                current.words.push(word);
                owed = false;
            }
            Token::Redirect(fd, direction) => match tokens.next() {
                Some(Token::Word(target)) => current.redirects.push(Redirect::File(fd, direction, target)),
                _ => return Err(Unclear::Redirect),
            },
            Token::Duplicate(fd, to) => current.redirects.push(Redirect::As(fd, to)),
            Token::Pipe => {
                commands.push(finish(&mut current)?);
                owed = true;
            }
            // A line may end where the command cannot.
            Token::Newline
                if current.words.is_empty() && current.redirects.is_empty() && (owed || commands.is_empty()) => {}
            Token::And | Token::Or | Token::Semicolon | Token::Newline => {
                commands.push(finish(&mut current)?);
                list.push(Pipeline { join, commands: std::mem::take(&mut commands) });
                (join, owed) = match token {
                    Token::And => (Join::IfDone, true),
                    Token::Or => (Join::IfFailed, true),
                    _ => (Join::Always, false),
                };
            }
        }
    }
    if owed || !current.words.is_empty() || !current.redirects.is_empty() {
        commands.push(finish(&mut current)?);
        list.push(Pipeline { join, commands });
    }
    if list.is_empty() { Err(Unclear::Empty) } else { Ok(list) }
}

fn finish(current: &mut Simple) -> Result<Simple, Unclear> {
    if current.words.is_empty() { Err(Unclear::Missing) } else { Ok(std::mem::take(current)) }
}

/// The first word of a command is a program's name, or it is not understood.
fn begins(word: &Word) -> Result<(), Unclear> {
    if word.quoted_from.is_none() && RESERVED.contains(&word.text.as_str()) {
        return Err(Unclear::Reserved);
    }
    let before_quotes = word.text.get(..word.quoted_from.unwrap_or(word.text.len())).unwrap_or_default();
    if let Some((name, _)) = before_quotes.split_once('=') {
        let name = name.strip_suffix('+').unwrap_or(name);
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Unclear::Assignment);
        }
    }
    Ok(())
}
