// The page's words in its languages, and the one place that puts them in.

const en = {
  skip: "Skip to the question", chats: "Chats", newChat: "New chat", noChats: "Nothing here yet.", close: "Close",
  private: "Your chats are kept in this browser only.", language: "Language", look: "Look", auto: "As the system",
  light: "Light", dark: "Dark", keys: "Keyboard", deleteAll: "Delete all chats", signOut: "Sign out",
  hello: "What would you like to know?", conversation: "Conversation", toEnd: "To the latest message",
  yourQuestion: "Your question", ask: "Ask something", send: "Send", stop: "Stop",
  mistakes: "Answers can be wrong. Check what matters.", codeTitle: "Access code",
  codeText: "Whoever runs this page gave you a code.", enter: "Enter", keySend: "send", keyLine: "new line",
  keyStop: "stop the answer, or close what is open", keyAsk: "to the question",
  keyEdit: "in an empty field: edit your last question", keyThis: "this list", cancel: "Cancel", copy: "Copy",
  copied: "Copied", notCopied: "Copying is not allowed here", edit: "Edit", retry: "Try again", save: "Send again",
  rename: "Rename", del: "Delete", you: "You", model: "Answer", thinking: "Thinking…", thought: "Thoughts",
  writing: "The answer is being written.", stopped: "Stopped.", code: "Code",
  place: (n) => (n === 1 ? "You are next." : `You are number ${n} in the queue.`),
  deleteTitle: (t) => `Delete “${t}”?`, deleteText: "It is in this browser only and can't be brought back.",
  deleteAllTitle: "Delete all chats?", available: "available", away: "not available",
  downTitle: "The model is not available just now.", downText: "This page notices by itself when it is back.",
  back: "The model is back.", offline: "No connection to this page's server.", shortened: (n) => n > 1
    ? `The conversation is long: the model saw its last ${n} messages.` : "The conversation is long: the model saw its last message.",
  cutLength: "The answer ended at its limit.", empty: "The model gave no answer.", long: "This is too long to send.",
  noAnswer: "This question was not answered.",
  full: "No more space in this browser: the oldest chats were removed.", forget: "This browser does not let the page keep chats.",
  errors: {
    unavailable: "The model is not available just now.", cut: "The answer broke off.", late: "The answer took too long.",
    limited: (s) => `That was a lot at once. Please wait ${s} s.`, busy: "Another answer of yours is still under way.",
    full: "Many people are waiting just now. Please try again soon.", waited: "The wait was too long. Please try again.",
    too_long: "This question is too long for the model.", too_large: "This is too long to send.",
    too_many_messages: "This chat has become too long. Please begin a new one.", sign_in: "Please enter the access code again.",
    wrong_code: "That code is not right.", stopping: "The server is being restarted. Please try again in a moment.",
    network: "The connection broke off.", other: "Something went wrong.",
  },
};

const pt = {
  skip: "Ir para a pergunta", chats: "Conversas", newChat: "Nova conversa", noChats: "Nada aqui ainda.", close: "Fechar",
  private: "Suas conversas ficam só neste navegador.", language: "Idioma", look: "Aparência", auto: "Como o sistema",
  light: "Clara", dark: "Escura", keys: "Teclado", deleteAll: "Apagar todas as conversas", signOut: "Sair",
  hello: "O que você gostaria de saber?", conversation: "Conversa", toEnd: "Ir para a última mensagem",
  yourQuestion: "Sua pergunta", ask: "Pergunte algo", send: "Enviar", stop: "Parar",
  mistakes: "As respostas podem estar erradas. Confira o que importa.", codeTitle: "Código de acesso",
  codeText: "Quem mantém esta página lhe deu um código.", enter: "Entrar", keySend: "enviar", keyLine: "nova linha",
  keyStop: "parar a resposta ou fechar o que está aberto", keyAsk: "ir para a pergunta",
  keyEdit: "com o campo vazio: editar a última pergunta", keyThis: "esta lista", cancel: "Cancelar", copy: "Copiar",
  copied: "Copiado", notCopied: "Não é permitido copiar aqui", edit: "Editar", retry: "Tentar de novo",
  save: "Enviar de novo", rename: "Renomear", del: "Apagar", you: "Você", model: "Resposta", thinking: "Pensando…",
  thought: "Raciocínio", writing: "A resposta está sendo escrita.", stopped: "Interrompida.", code: "Código",
  place: (n) => (n === 1 ? "Você é o próximo da fila." : `Você é o número ${n} da fila.`),
  deleteTitle: (t) => `Apagar “${t}”?`, deleteText: "Ela existe só neste navegador e não poderá ser recuperada.",
  deleteAllTitle: "Apagar todas as conversas?", available: "disponível", away: "indisponível",
  downTitle: "O modelo não está disponível no momento.", downText: "Esta página percebe sozinha quando ele volta.",
  back: "O modelo voltou.", offline: "Sem conexão com o servidor desta página.", shortened: (n) => n > 1
    ? `A conversa é longa: o modelo viu só as últimas ${n} mensagens.` : "A conversa é longa: o modelo viu só a última mensagem.",
  cutLength: "A resposta chegou ao seu limite.", empty: "O modelo não deu resposta.", long: "Isto é longo demais para enviar.",
  noAnswer: "Esta pergunta ficou sem resposta.",
  full: "Sem espaço neste navegador: as conversas mais antigas foram removidas.", forget: "Este navegador não deixa a página guardar conversas.",
  errors: {
    unavailable: "O modelo não está disponível no momento.", cut: "A resposta foi interrompida.",
    late: "A resposta demorou demais.", limited: (s) => `Muitas perguntas de uma vez. Aguarde ${s} s.`,
    busy: "Outra resposta sua ainda está em andamento.", full: "Há muitas pessoas na fila agora. Tente de novo em breve.",
    waited: "A espera foi longa demais. Tente de novo.", too_long: "Esta pergunta é longa demais para o modelo.",
    too_large: "Isto é longo demais para enviar.", too_many_messages: "Esta conversa ficou longa demais. Comece uma nova.",
    sign_in: "Digite de novo o código de acesso.", wrong_code: "Este código não está certo.",
    stopping: "O servidor está reiniciando. Tente de novo em um momento.", network: "A conexão foi interrompida.",
    other: "Algo deu errado.",
  },
};

export const all = { en, pt };
let now = "en";

export const language = () => now;
export const t = (key, ...args) => {
  const found = key.split(".").reduce((of, part) => of?.[part], all[now]);
  return typeof found === "function" ? found(...args) : (found ?? key);
};
export const error = (code, seconds) => t(`errors.${code in en.errors ? code : "other"}`, seconds || 5);

export function choose(wanted) {
  const likes = wanted ? [wanted] : navigator.languages ?? [navigator.language];
  now = likes.map((l) => l.slice(0, 2).toLowerCase()).find((l) => l in all) ?? "en";
  document.documentElement.lang = now === "pt" ? "pt-BR" : now;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) {
    const label = t(node.dataset.label);
    node.setAttribute("aria-label", label);
    if (node.tagName === "BUTTON") node.title = label;
  }
}
