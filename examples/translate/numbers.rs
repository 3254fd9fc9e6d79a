//! Numbers below a million, as English words and as digits.

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

/// The words; a word's token is its place plus 1, behind the padding.
const WORDS: [&str; 30] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
];
const HUNDRED: u32 = 28;
const THOUSAND: u32 = 29;

/// Padding and words, and one token that isn't used, to make it a multiple of 4.
pub(crate) const WORD_TOKENS: usize = 32;
/// Padding, start, end, the digits, and three that aren't used.
pub(crate) const DIGIT_TOKENS: usize = 16;
/// The token of the digit 0.
const ZERO: i32 = 3;

/// `nine hundred ninety nine thousand nine hundred ninety nine`
pub(crate) const MOST_WORDS: usize = 9;
pub(crate) const MOST_DIGITS: usize = 6;

/// Whether training leaves the number out.
pub(crate) const fn held_out(number: u32) -> bool {
    number % 7 == 3
}

/// With 1 to 6 digits, each number of digits equally often, so that lengths are mixed.
pub(crate) fn random_number(random: &mut Xoshiro256PlusPlus) -> u32 {
    let count = random.random_range(1..=MOST_DIGITS as u32);
    let smallest = if count == 1 { 0 } else { 10_u32.pow(count - 1) };
    random.random_range(smallest..10_u32.pow(count))
}

/// The tokens of the number's words.
pub(crate) fn words(number: u32) -> Vec<i32> {
    let mut places = Vec::new();
    if number >= 1000 {
        below_a_thousand(number / 1000, &mut places);
        places.push(THOUSAND);
    }
    below_a_thousand(number % 1000, &mut places);
    if number == 0 {
        places.push(0);
    }
    places.into_iter().map(|place| place as i32 + 1).collect()
}

/// The places in [`WORDS`] for a number from 1 to 999; none for 0.
fn below_a_thousand(number: u32, places: &mut Vec<u32>) {
    if number >= 100 {
        places.extend([number / 100, HUNDRED]);
    }
    match number % 100 {
        0 => {}
        small @ 1..20 => places.push(small),
        large => {
            places.push(18 + large / 10);
            places.extend(Some(large % 10).filter(|ones| *ones > 0));
        }
    }
}

/// The tokens of the number's digits.
pub(crate) fn digits(number: u32) -> Vec<i32> {
    number.to_string().bytes().map(|digit| i32::from(digit - b'0') + ZERO).collect()
}

pub(crate) fn source_text(number: u32) -> String {
    let words: Vec<_> = words(number).iter().map(|token| WORDS[*token as usize - 1]).collect();
    words.join(" ")
}

/// Digits, and `?` for what is none.
pub(crate) fn target_text(tokens: &[i32]) -> String {
    let digit =
        |token: &i32| u32::try_from(token - ZERO).ok().and_then(|d| char::from_digit(d, 10));
    tokens.iter().map(|token| digit(token).unwrap_or('?')).collect()
}
