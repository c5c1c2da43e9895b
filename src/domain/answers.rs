//! Rules by which otter answers the questions of machines.

use std::collections::BTreeMap;

use super::machine::{Choice, Question};

/// The rules that say which choice answers a question. The key is the id of a message of the
/// question, for example `msg.uuid.altered`. The value is the label of the choice, for example
/// `button.uuid.copiedTheVM`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerRules(pub BTreeMap<String, String>);

/// The rule that applies to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerRule<'r> {
    pub message_id: &'r str,
    /// The label of the choice that answers the question.
    pub label: &'r str,
}

impl AnswerRules {
    /// The rule that applies to a question. `None` if no rule applies. If the question consists of
    /// several messages, the first message with a rule decides.
    #[must_use]
    pub fn for_question(&self, question: &Question) -> Option<AnswerRule<'_>> {
        let rule = question.message_ids.iter().find_map(|id| self.0.get_key_value(id));
        rule.map(|(message_id, label)| AnswerRule { message_id, label })
    }
}

impl AnswerRule<'_> {
    /// The choice of the question that the rule names. `None` if the question does not offer this
    /// choice.
    #[must_use]
    pub fn choice<'q>(&self, question: &'q Question) -> Option<&'q Choice> {
        question.choices.iter().find(|choice| choice.label == self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::QuestionId;

    fn question(message_ids: &[&str]) -> Question {
        let choice = |key: &str, label: &str| Choice {
            key: key.to_owned(),
            label: label.to_owned(),
            summary: String::new(),
            default: false,
        };
        Question {
            id: QuestionId::from_backend("19"),
            message_ids: message_ids.iter().map(|id| (*id).to_owned()).collect(),
            text: String::new(),
            choices: vec![choice("0", "button.cancel"), choice("4", "button.copied")],
        }
    }

    #[test]
    fn the_first_message_with_a_rule_decides_and_the_label_names_the_choice() {
        let rule = |id: &str, label: &str| (id.to_owned(), label.to_owned());
        let rules = AnswerRules(
            [rule("msg.uuid.altered", "button.copied"), rule("msg.other", "button.none")].into(),
        );
        let choice = |message_ids: &[&str]| {
            let question = question(message_ids);
            let rule = rules.for_question(&question)?;
            Some((rule.message_id, rule.choice(&question).map(|choice| choice.key.clone())))
        };
        assert_eq!(choice(&["msg.uuid.altered"]), Some(("msg.uuid.altered", Some("4".to_owned()))));
        let both = ["msg.unknown", "msg.uuid.altered", "msg.other"];
        assert_eq!(choice(&both), Some(("msg.uuid.altered", Some("4".to_owned()))));
        assert_eq!(choice(&["msg.other"]), Some(("msg.other", None)), "it is not offered");
        assert_eq!(choice(&["msg.unknown"]), None);
        assert_eq!(choice(&[]), None);
    }
}
