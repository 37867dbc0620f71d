//! Time as the log writes it: RFC 3339 with microseconds, in UTC. No table of zones, no locale, no leap seconds (the
//! kernel's clock has none), so a dozen lines of arithmetic do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;
/// How far the wall clock may run back, as when NTP corrects it, without a record that says so.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// One instant by both clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instant {
    /// Since 1970-01-01T00:00:00Z, by the wall clock, which somebody may have set.
    pub wall: Duration,
    /// Nanoseconds since boot, by the clock that nobody sets.
    pub monotonic_ns: u64,
}

impl Instant {
    /// Now. A wall clock before 1970 reads as 1970.
    #[must_use]
    pub fn now() -> Self {
        let mono = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(mono.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(mono.tv_nsec).unwrap_or(0);
        Self {
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            monotonic_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        }
    }

    /// Wall clock in milliseconds since 1970.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `2026-11-23T11:00:00.000001Z` for a time since 1970-01-01T00:00:00Z.
#[must_use]
pub fn rfc3339_micros(wall: Duration) -> String {
    let seconds = wall.as_secs();
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    // By hand: every record has one, and a formatter takes longer for it than a hash does.
    let mut text = String::with_capacity(27);
    let parts = [(year, 1_000, '-'), (month, 10, '-'), (day, 10, 'T'), (hour, 10, ':'), (minute, 10, ':')];
    let last = [(second, 10, '.'), (u64::from(wall.subsec_micros()), 100_000, 'Z')];
    for (value, first, sign) in parts.into_iter().chain(last) {
        let mut place = first;
        while place > 0 {
            text.push(char::from_digit(u32::try_from(value / place % 10).unwrap_or_default(), 10).unwrap_or('0'));
            place /= 10;
        }
        text.push(sign);
    }
    text
}

/// The time since 1970-01-01T00:00:00Z of an RFC 3339 date and time in UTC, or of a date alone, its first instant.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Duration> {
    let number = |text: Option<&str>, digits: usize| {
        text.filter(|text| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok()
    };
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let (time, fraction) = time.strip_suffix('Z')?.split_once('.').unwrap_or((time.strip_suffix('Z')?, "0"));
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next(), 4)?, number(date.next(), 2)?, number(date.next(), 2)?);
    let mut time = time.split(':');
    let (hour, minute, second) = (number(time.next(), 2)?, number(time.next(), 2)?, number(time.next(), 2)?);
    if date.next().is_some() || time.next().is_some() || hour > 23 || minute > 59 || second > 60 || year < 1970 {
        return None;
    }
    let days = days(year, month, day)?;
    let nanos = number(Some(&format!("{fraction:0<9}")), 9)?;
    let seconds = days.checked_mul(DAY)?.checked_add(hour * 3600 + minute * 60 + second)?;
    Some(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

/// Days from 1970-01-01 to a date that exists; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let march_month = if month > 2 { month.checked_sub(3)? } else { month.checked_add(9)? };
    let of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = (era * 146_097 + of_era).checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, `civil_from_days`, for days that are not negative).
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March of year 0, so that the leap day is a year's last; 719468 days lie between.
    let shifted = days.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc3339_of_known_instants_matches_date_1() {
        // By `date -u -d @N +%FT%T`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_799, "2000-02-29T23:59:59"),
            (1_767_225_599, "2025-12-31T23:59:59"),
            (1_795_431_601, "2026-11-23T11:00:01"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(rfc3339_micros(Duration::from_micros(seconds * 1_000_000 + 42)), format!("{text}.000042Z"));
        }
    }

    #[test]
    fn time_that_does_not_exist_is_none_and_a_date_is_its_first_instant() {
        for bad in [
            "",
            "2026-02-30",
            "2026-13-01",
            "2026-00-01",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "1969-12-31",
            "2026-1-1",
            "2026-01-01T00:00:00.+1Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
        assert_eq!(parse_rfc3339("2000-02-29"), Some(Duration::from_secs(951_782_400)));
        assert_eq!(parse_rfc3339("2000-02-29T00:00:00.5Z"), Some(Duration::from_millis(951_782_400_500)));
    }

    proptest! {
        #[test]
        fn written_time_reads_back(micros in 0u64..5_000_000_000_000_000) {
            let wall = Duration::from_micros(micros);
            prop_assert_eq!(parse_rfc3339(&rfc3339_micros(wall)), Some(wall));
        }

        #[test]
        fn civil_of_the_next_day_is_one_day_later(days in 0u64..200_000) {
            let (year, month, day) = civil(days);
            let (next_year, next_month, next_day) = civil(days + 1);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            let same_month = (next_year, next_month, next_day) == (year, month, day + 1);
            let new_month = (next_year, next_month, next_day) == (year, month + 1, 1);
            let new_year = (month, day) == (12, 31) && (next_year, next_month, next_day) == (year + 1, 1, 1);
            prop_assert!(same_month || new_month || new_year);
        }
    }
}
