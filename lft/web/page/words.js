"use strict";
// What the page says: English stands in the page and as the keys here.
const PORTUGUESE = {
  dashboard: "Painel", files: "Ficheiros", history: "Histórico", logout: "Sair", login: "Entrar",
  username: "Utilizador", password: "Palavra-passe", throughput: "Débito", running: "Em curso",
  waiting: "Em espera", verdicts: "Últimos resultados", sort: "Ordenar por", byname: "Nome",
  bytime: "Mais recentes", bysize: "Maiores", urls: "Lista de URLs para aria2c -i", more: "Mais",
  unfinished: "Inacabados", search: "Procurar", outcome: "Resultado", all: "Todos", show: "Mostrar",
  who: "Utilizador", csv: "Transferir como CSV",
  "log in over https, or from this machine: this browser computes no proofs here":
    "entre por https ou a partir desta máquina: aqui o navegador não calcula provas",
  "nothing here": "nada aqui", "free": "livres", "left": "restantes", "position": "posição",
  "peak": "máximo", "held up by": "limitado por", "Copy digest": "Copiar resumo", "Up": "Subir",
  "connection lost, trying again": "ligação perdida, a tentar de novo",
  received: "recebido", failed: "falhado", refused: "recusado", interrupted: "interrompido",
  upload: "Enviar", choose: "Escolha ficheiros ou largue-os aqui", Pause: "Pausa", Cancel: "Cancelar",
  "Go on": "Continuar", "Try again": "Tentar de novo", paused: "em pausa", "being sent": "a enviar",
  "waits for others": "à espera de outros",
  arrived: "chegou", "each piece checked": "cada parte verificada", stored: "guardado",
  "the file has changed: choose it again": "o ficheiro mudou: escolha-o de novo",
  "choose the file again to go on": "escolha o ficheiro de novo para continuar",
  "another file than the unfinished one: sent from its start":
    "outro ficheiro, não o inacabado: enviado desde o início",
  "being sent elsewhere": "a ser enviado noutro lugar", "comparing with what is there": "a comparar com o que já chegou",
  "folders are sent with client.py, whole and as one": "as pastas enviam-se com client.py, inteiras e de uma vez",
  hashing: "cálculo do resumo", disk: "disco", limit: "limite",
};
const inPortuguese = (navigator.languages || [navigator.language])[0].toLowerCase().startsWith("pt");
const say = (word) => (inPortuguese && PORTUGUESE[word]) || word;
if (inPortuguese) {
  document.documentElement.lang = "pt";
  for (const one of document.querySelectorAll("[data-word]")) one.textContent = say(one.dataset.word);
}
