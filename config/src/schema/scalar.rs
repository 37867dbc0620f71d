//! Values that people write in more than one way.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;

/// Bytes: `512m`, `1g`, `65536k`, or a number of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextOrNumber"))]
pub struct Size(pub u64);

/// Thousandths of a processor: "1.5" or 1.5.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextOrNumber"))]
pub struct Cpus(pub u32);

/// Thousandths of a US dollar: 1.25 or "1.25", up to 10 000 dollars. What is finer than a thousandth is cut off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextOrNumber"))]
pub struct Dollars(pub u32);

/// A number that a channel knows somebody by; `*` is everybody.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextOrNumber"))]
pub struct Id(pub String);

/// true, false, or "auto".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "TextOrSwitch"))]
pub enum NativeCommands {
    /// Where the channel has them.
    Auto,
    /// Yes.
    On,
    /// No.
    #[default]
    Off,
}

#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the shape of a value that is written as text or as a number")]
enum TextOrNumber {
    Text(String),
    Number(f64),
}

#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the shape of a value that is a switch or the word auto")]
enum TextOrSwitch {
    Text(String),
    Switch(bool),
}

/// A text, or a number as the text that it would be.
struct Loose(&'static str);

impl Visitor<'_> for Loose {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<String, E> {
        Ok(switch.to_string())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "a size, as \"512m\" or a number of bytes";
        let text = deserializer.deserialize_any(Loose(what))?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1 << 10,
            "m" | "mb" => 1 << 20,
            "g" | "gb" => 1 << 30,
            _ => 0,
        };
        let bytes = digits.parse::<u64>().ok().filter(|_| factor > 0).and_then(|count| count.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| Error::custom(format!("{text:?} is not {what}")))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 > 0 && self.0.is_multiple_of(1 << 20) {
            serializer.collect_str(&format_args!("{}m", self.0 >> 20))
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "a number of processors, as \"1.0\"";
        let text = deserializer.deserialize_any(Loose(what))?;
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let part = format!("{part:0<3}");
        let thousandths = || {
            let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
            if part.len() > 3 || !digits(&part) || !digits(whole) {
                return None;
            }
            whole.parse::<u32>().ok()?.checked_mul(1_000)?.checked_add(part.parse().ok()?)
        };
        thousandths().map(Self).ok_or_else(|| Error::custom(format!("{text:?} is not {what}")))
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{:03}", self.0 / 1_000, self.0 % 1_000))
    }
}

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "a number of dollars, 0 to 10000, as 1.25";
        let text = deserializer.deserialize_any(Loose(what))?;
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let part: String = format!("{part:0<3}").chars().take(3).collect();
        let thousandths = (digits(whole) && digits(&part))
            .then(|| whole.parse::<u32>().ok()?.checked_mul(1_000)?.checked_add(part.parse().ok()?))
            .flatten()
            .filter(|thousandths| *thousandths <= 10_000_000);
        thousandths.map(Self).ok_or_else(|| Error::custom(format!("{text:?} is not {what}")))
    }
}

impl Serialize for Dollars {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1_000.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Loose("a number or a name")).map(Self)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NativeCommands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = "true, false or \"auto\"";
        match deserializer.deserialize_any(Loose(what))?.as_str() {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::On),
            "false" => Ok(Self::Off),
            other => Err(Error::custom(format!("{other:?} is not {what}"))),
        }
    }
}

impl Serialize for NativeCommands {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}
