//! What devices have still to say. In a browser, a device answers once the page's code has returned to it, so that an error
//! can't come from the call that made it.
//!
//! Whoever reads a result back asks first ([`settle`]). Between the use of what may be broken and that question nobody else
//! has a turn, so that no call takes a broken result for a good one, whichever of several calls at a time hears of it first.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};

#[cfg(target_family = "wasm")]
thread_local! {
    /// In a browser, a device belongs to one thread.
    static ANSWERS: std::cell::RefCell<Answers<wgpu::Device>> =
        const { std::cell::RefCell::new(Answers(Vec::new())) };
}

/// Keeps an answer until [`settle`] asks for it.
#[cfg(target_family = "wasm")]
pub(super) fn expect(device: &wgpu::Device, answer: impl Future<Output = Option<Error>> + 'static) {
    ANSWERS.with_borrow_mut(|answers| answers.expect(device.clone(), answer));
}

/// Waits for all that the device was asked so far, and gives its first objection.
#[cfg(target_family = "wasm")]
pub(super) async fn settle(device: &wgpu::Device) -> Result<()> {
    let answers = ANSWERS.with_borrow_mut(|answers| answers.take(device));
    first_objection(answers).await
}

/// Answers of devices, in the order of the questions.
struct Answers<D>(Vec<(D, Answer)>);

enum Answer {
    Awaited(Pin<Box<dyn Future<Output = Option<Error>>>>),
    Objection(Error),
}

impl<D: PartialEq> Answers<D> {
    fn expect(&mut self, device: D, answer: impl Future<Output = Option<Error>> + 'static) {
        // An application may make plans for hours and never read anything back.
        self.0.retain_mut(|(_, answer)| answer.may_matter());
        self.0.push((device, Answer::Awaited(Box::pin(answer))));
    }

    fn take(&mut self, device: &D) -> Vec<Answer> {
        self.0.extract_if(.., |(other, _)| other == device).map(|(_, answer)| answer).collect()
    }
}

impl Answer {
    /// Whether it is, or may still become, an objection.
    fn may_matter(&mut self) -> bool {
        let Self::Awaited(answer) = self else { return true };
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(None) => false,
            Poll::Ready(Some(error)) => {
                *self = Self::Objection(error);
                true
            }
        }
    }
}

async fn first_objection(answers: Vec<Answer>) -> Result<()> {
    let mut first = None;
    for answer in answers {
        let objection = match answer {
            Answer::Awaited(answer) => answer.await,
            Answer::Objection(error) => Some(error),
        };
        first = first.or(objection);
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};

    use super::*;

    fn objection(message: &str) -> Error {
        Error::Device { during: "a test", message: message.to_owned() }
    }

    #[test]
    fn a_device_tells_its_own_first_objection() {
        let mut answers = Answers(Vec::new());
        answers.expect("a", ready(None));
        answers.expect("a", ready(Some(objection("1"))));
        answers.expect("b", ready(Some(objection("2"))));
        answers.expect("a", ready(Some(objection("3"))));
        let settled = |taken| pollster::block_on(first_objection(taken));
        assert_eq!(settled(answers.take(&"a")), Err(objection("1")));
        assert_eq!(settled(answers.take(&"a")), Ok(()));
        assert_eq!(settled(answers.take(&"b")), Err(objection("2")));
    }

    #[test]
    fn only_what_may_matter_is_kept() {
        let mut answers = Answers(Vec::new());
        answers.expect("a", pending());
        for _ in 0..100 {
            answers.expect("a", ready(None));
        }
        assert_eq!(answers.0.len(), 2);
        answers.expect("a", ready(Some(objection("kept"))));
        answers.expect("a", ready(None));
        assert_eq!(answers.0.len(), 3);
    }

    #[test]
    fn an_answer_that_takes_its_time_is_waited_for() {
        let mut turns = 0;
        let answer = poll_fn(move |context| {
            turns += 1;
            if turns == 3 {
                return Poll::Ready(Some(objection("late")));
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let mut answers = Answers(Vec::new());
        answers.expect("a", answer);
        assert!(answers.0[0].1.may_matter());
        let settled = pollster::block_on(first_objection(answers.take(&"a")));
        assert_eq!(settled, Err(objection("late")));
    }
}
