// What an agent lets people choose in a thread, as its event `agent_modes` tells it: a mode, a model. Pure.

/** The name of that event. */
export const OFFERS = "agent_modes";
/** Says that a choice could not be made. */
export const REFUSED = "agent_modes_refused";

/**
 * @typedef {object} Offer
 * @property {"mode" | "model"} setting @property {string} current
 * @property {{id: string, name: string, about: string}[]} options
 */

/** @param {any} data of the event @returns {Offer[]} those with something to choose from */
export function offersOf(data) {
  const named = (id) => ({ name, description }) => ({ id, name: name || id, about: description ?? "" });
  const all = [
    {
      setting: "mode",
      current: data?.modes?.currentModeId,
      options: (data?.modes?.availableModes ?? []).map((mode) => named(mode.id)(mode)),
    },
    {
      setting: "model",
      current: data?.models?.currentModelId,
      options: (data?.models?.availableModels ?? []).map((model) => named(model.modelId)(model)),
    },
  ];
  // Newer agents offer both as options of their own, which may be in groups.
  for (const option of data?.config_options ?? []) {
    const offer = all.find((one) => (one.setting === option.category || one.setting === option.id) && one.options.length === 0);
    if (!offer) continue;
    offer.current = option.currentValue;
    offer.options = (option.options ?? []).flatMap((one) => one.options ?? [one]).map((one) => named(one.value)(one));
  }
  return all.filter((offer) => offer.options.length > 1);
}

/** The command that chooses. @param {string} setting @param {string} thread the agent's id @param {string} id */
export function choiceOf(setting, thread, id) {
  return { type: `set_session_${setting}`, data: { acp_thread_id: thread, [`${setting}_id`]: id } };
}
