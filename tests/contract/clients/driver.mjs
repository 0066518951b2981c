// Plays the cases that test_clients.py sends, for a client in JavaScript, and says what it saw; what
// a case is and what is printed, driver.py says.

export const KEY = "none";

export const LOOK = {
  type: "function",
  name: "client_look",
  description: "Look a word up, at the client.",
  parameters: {
    type: "object",
    properties: { word: { type: "string" } },
    required: ["word"],
    additionalProperties: false,
  },
  strict: true,
};

// What a client made of a structured answer, as driver.py shows it.
export function shown({ city, degrees }) {
  return `{"city": ${JSON.stringify(city)}, "degrees": ${degrees}}`;
}

export async function main(play) {
  const given = JSON.parse(process.argv[2]);
  for (const each of given.cases) {
    const executed = [];
    const look = (word) => (executed.push(word), `client found ${word}`);
    const url = (turn) => given.urls[turn % given.urls.length];
    const saw = { name: each.name, texts: [], error: null };
    try {
      saw.texts = await play({ history: "native", ...each, url, look });
    } catch (error) {
      saw.error = `${error.name}: ${error.message}`.slice(0, 2000);
      console.error(error);
    }
    console.log(JSON.stringify({ ...saw, executed }));
  }
}
